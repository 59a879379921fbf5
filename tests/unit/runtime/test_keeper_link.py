"""The agent's end of the line to its keeper; the test plays the keeper."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pomerium_agent.errors import EnvoyUnavailable, SettingsError
from pomerium_agent.runtime.keeper_link import Charge, KeeperLink, adopt_sockets, open_keeper_link
from pomerium_agent.runtime.waiting import until_is


class Keeper:
    """The other end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def hear(self) -> dict[str, object]:
        said: dict[str, object] = json.loads(await self._reader.readline())
        return said

    def say(self, **event: object) -> None:
        self._writer.write(json.dumps(event).encode() + b"\n")

    def die(self) -> None:
        self._writer.close()


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[KeeperLink, Keeper]]:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    async with asyncio.timeout(20), open_keeper_link({"POMERIUM_AGENT_KEEPER_FD": str(ours.detach())}) as link:
        yield link, Keeper(reader, writer)
    writer.close()
    await writer.wait_closed()


async def test_envoy_is_asked_for_and_its_pid_comes_back() -> None:
    async with linked() as (link, keeper), asyncio.TaskGroup() as tasks:
        pid = tasks.create_task(link.start_envoy(["envoy", "-c", "b"], Path("b")))
        asked = await keeper.hear()
        keeper.say(event="envoy", pid=42, request=asked["request"])

        assert await pid == 42
        assert link.envoy_pid.value == 42
        assert asked == {"op": "envoy", "argv": ["envoy", "-c", "b"], "bootstrap": "b", "hot": False, "request": 1}


async def test_a_restart_of_the_old_envoy_is_not_taken_for_the_answer() -> None:
    async with linked() as (link, keeper), asyncio.TaskGroup() as tasks:
        pid = tasks.create_task(link.start_envoy(["envoy"], Path("b")))
        asked = await keeper.hear()
        keeper.say(event="envoy", pid=41)
        keeper.say(event="envoy", pid=42, request=asked["request"])

        assert await pid == 42


async def test_an_envoy_that_takes_over_answers_with_the_one_that_runs_and_a_failure_of_it_harms_nobody() -> None:
    async with linked() as (link, keeper), asyncio.TaskGroup() as tasks:
        pid = tasks.create_task(link.start_envoy(["envoy"], Path("b"), hot=True))
        asked = await keeper.hear()
        keeper.say(event="envoy-refused", reason="its bootstrap is nonsense")
        keeper.say(event="envoy", pid=41, request=asked["request"])

        assert asked["hot"] is True
        assert await pid == 41


async def test_a_restart_is_seen_by_those_who_follow() -> None:
    async with linked() as (link, keeper):
        keeper.say(event="envoy", pid=1)
        keeper.say(event="envoy", pid=0)
        keeper.say(event="something", new=True)
        keeper.say(event="envoy", pid=2)

        async for pid in link.envoy_pid.follow():
            if pid == 2:
                break


async def test_a_refusal_says_why() -> None:
    async with linked() as (link, keeper), asyncio.TaskGroup() as tasks:
        pid = tasks.create_task(refused(link))
        asked = await keeper.hear()
        keeper.say(event="envoy-refused", reason="cannot read b", request=asked["request"])

        assert "cannot read b" in await pid


async def refused(link: KeeperLink) -> str:
    with pytest.raises(EnvoyUnavailable) as refusal:
        await link.start_envoy(["envoy"], Path("b"))
    return str(refusal.value)


async def test_when_the_keeper_is_gone_everybody_hears_of_it() -> None:
    async with linked() as (link, keeper), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(refused(link))
        await keeper.hear()
        keeper.die()

        await link.wait_gone()
        assert "gone" in await waiting
        assert "gone" in await refused(link)
        await link.ready()


async def test_ready_is_passed_on() -> None:
    async with linked() as (link, keeper):
        await link.ready()

        assert await keeper.hear() == {"op": "ready"}


@pytest.mark.parametrize("fd", ["", "x", "9999"])
async def test_without_a_keeper_there_is_no_link(fd: str) -> None:
    with pytest.raises(SettingsError, match="pomerium-agent run"):
        async with open_keeper_link({"POMERIUM_AGENT_KEEPER_FD": fd}):
            pass


def test_the_inherited_sockets_are_found_by_name() -> None:
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        fds = [first.dup().detach(), second.dup().detach()]

        adopted = adopt_sockets({"POMERIUM_AGENT_SOCKETS": f"authorize:{fds[0]},pages:{fds[1]}"})

        assert {name: sock.fileno() for name, sock in adopted.items()} == {"authorize": fds[0], "pages": fds[1]}
        assert not any(sock.get_inheritable() or sock.getblocking() for sock in adopted.values())
        for sock in adopted.values():
            sock.close()


def test_without_inherited_sockets_the_remedy_is_named() -> None:
    with pytest.raises(SettingsError, match="pomerium-agent run"):
        adopt_sockets({})


async def test_who_comes_to_replace_another_waits_for_the_charge() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    environ = {"POMERIUM_AGENT_KEEPER_FD": str(ours.detach()), "POMERIUM_AGENT_SUCCESSOR": "yes"}
    async with asyncio.timeout(20), open_keeper_link(environ) as link:
        keeper = Keeper(reader, writer)
        assert (link.successor, link.charge.value) == (True, None)
        await link.prepared()
        assert await keeper.hear() == {"op": "prepared"}
        keeper.say(event="charge", ready=True, alone=False)
        async for charge in link.charge.follow():
            if charge is not None:
                break
        assert charge == Charge(ready=True, alone=False)
    writer.close()
    await writer.wait_closed()


async def test_who_is_replaced_hears_of_the_hold_of_its_end_and_of_the_success() -> None:
    async with linked() as (link, keeper):
        assert link.charge.value == Charge(ready=False, alone=True)  # from the beginning
        for event, cell, wanted in (
            ("hold", link.hold, True),
            ("resume", link.hold, False),
            ("succeeded", link.succeeded, True),
        ):
            keeper.say(event=event)
            await until_is(cell, wanted)
        assert link.resumed.value == 1
        await link.held()
        await link.left()
        assert [await keeper.hear(), await keeper.hear()] == [{"op": "held"}, {"op": "left"}]
