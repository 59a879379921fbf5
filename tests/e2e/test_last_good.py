"""The control plane is down and the machine starts: it serves what it served, and says since when."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import pytest

from pomerium_agent.demo.playground import ReplicaAt, run_console
from tests.e2e.world import CLUSTER, HELLO, Answer, World, eventually, kill, open_world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


async def test_a_replica_that_starts_without_its_control_plane_serves_what_it_served() -> None:
    """Z-65: records in memory, console, agent, Envoy and keeper gone; the first request is answered as before."""
    async with open_world() as world:
        await world.apply(HELLO)
        # What belongs to the machine, and not to the process, is somewhere else than the runtime directory.
        machine = world.cluster.directory / "machine"
        kept = {"STATE_DIRECTORY": str(machine / "state"), "XDG_CACHE_HOME": str(machine / "cache")}
        async with world.cluster.replica("r1", environment=kept) as before:
            assert (await world.get(before, "hello")).status == 200
            digest = json.loads(json.dumps(await before.status()))["config"]["in_force"]

            async def is_kept() -> bool:
                return bool((await before.status())["statuses"].get("config.last-good"))  # type: ignore[attr-defined]

            await eventually("the configuration is kept", is_kept)
        kill(world.cluster.console.running.process.pid)

        async with world.cluster.replica("r1", environment=kept) as after:
            answers: list[Answer] = [await world.get(after, "hello", f"/{n}") for n in range(3)]
            status = json.loads(json.dumps(await after.status()))

        assert [answer.status for answer in answers] == [200, 200, 200]
        assert answers[2].json()["path"] == "/2"
        assert status["config"]["in_force"] == digest
        assert status["config"]["last_good_of"]
        assert status["ready"] is True
        assert status["connected"] is False


CALLED = """
from: https://called.DOMAIN
to: UPSTREAM
allow_any_authenticated_user: true
"""
Asked = tuple[str, Mapping[str, str]]


@asynccontextmanager
async def load(world: World, replica: ReplicaAt, *asked: Asked) -> AsyncIterator[dict[str, list[object]]]:
    """A client for each; what went wrong, by host."""
    failures: dict[str, list[object]] = {host: [] for host, _ in asked}

    async def ask(host: str, headers: Mapping[str, str]) -> None:
        while True:
            try:
                status = (await world.get(replica, host, headers=headers)).status
                if status != 200:
                    failures[host].append(status)
            except (OSError, aiohttp.ClientError, TimeoutError) as error:
                failures[host].append(repr(error))
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(ask(*each)) for each in asked]
        yield failures
        for client in clients:
            client.cancel()


async def test_programs_get_in_without_the_control_plane_and_a_revoked_one_not_when_it_is_back() -> None:
    """Z-65, architecture 4.4: records in memory; the agent is killed under load, then all of the replica is."""
    async with open_world() as world:
        console, accounts = world.cluster.console, ("console", "service-account")
        robots = {}
        for name in ("robot", "revoked"):
            made = await world.cluster.verb(*accounts, "create", name, "--cluster", CLUSTER, "--json")
            robots[name] = json.loads(made)["headers"]
        await world.apply(HELLO, CALLED)

        async def gets_in(replica: ReplicaAt, name: str = "robot", wanted: bool = True) -> bool:
            return ((await world.get(replica, "called", headers=robots[name])).status == 200) is wanted

        machine = world.cluster.directory / "machine"
        kept = {"STATE_DIRECTORY": str(machine / "state"), "XDG_CACHE_HOME": str(machine / "cache")}
        async with world.cluster.replica("r1", environment=kept) as replica:
            await eventually("the accounts are known", lambda: gets_in(replica))
            await asyncio.sleep(2)  # for all of it to be on disk, and what it says of that is true before
            kill(console.running.pid)
            await console.running.process.wait()
            await world.cluster.verb(*accounts, "revoke", "revoked", "--cluster", CLUSTER)
            before = (await replica.pids())["agent"]
            async with load(world, replica, ("hello", {}), ("called", robots["robot"])) as failures:
                await asyncio.sleep(0.5)
                kill(before)

                async def is_another() -> bool:
                    status = await replica.status()
                    return (await replica.pids())["agent"] != before and bool(status["config"]["in_force"])  # type: ignore[index]  # our own JSON

                await eventually("another agent serves", is_another)
                await asyncio.sleep(1)
                # Only a question that was put to the agent and not answered is lost.
                assert failures["hello"] == []
                assert failures["called"] in ([], [503])
                failures["called"].clear()
                # Nobody could be told of the revocation.
                assert await gets_in(replica, "revoked")

                ports = [int(url.split(":")[2].split("/")[0]) for url in (console.cluster_api, console.connect)]
                again = run_console(console.data_dir, world.cluster.directory, api_port=ports[0], grpc_port=ports[1])
                async with again as back:
                    await eventually("the revoked one is refused", lambda: gets_in(replica, "revoked", False))
                    await eventually("what is live is served", lambda: is_live(replica))
                    assert not await gets_in(replica, "revoked")
                    await asyncio.sleep(2)  # as above
                    kill(back.running.pid)
                    await back.running.process.wait()
                assert failures == {"hello": [], "called": []}

        async with world.cluster.replica("r1", environment=kept) as anew:
            assert await gets_in(anew)
            assert not await gets_in(anew, "revoked")
            assert (await anew.status())["config"]["last_good_of"]  # type: ignore[index]  # our own JSON


async def is_live(replica: ReplicaAt) -> bool:
    status = await replica.status()
    return bool(status["connected"]) and status["config"]["last_good_of"] is None  # type: ignore[index]  # our own JSON
