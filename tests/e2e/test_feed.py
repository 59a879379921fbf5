"""What Envoy refuses although we did not: real Envoy, real ADS, a snapshot that nobody checked."""

import asyncio
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import certifi
import pytest

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.feed import Feeder
from pomerium_agent.config import Compiled, ConfigSnapshot
from pomerium_agent.config.action import DirectResponse
from pomerium_agent.config.snapshot import Address, Route, Settings
from pomerium_agent.config.source import Kind, Match, MatchKind, Source
from pomerium_agent.demo.playground import free_port
from pomerium_agent.envoy.ads_server import serve_ads
from pomerium_agent.envoy.binary import envoy_binary
from pomerium_agent.envoyconfig import LocalAddresses, build_bootstrap, envoy_arguments
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from tests.e2e.world import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


EVERYTHING = Match(MatchKind.PREFIX)
SYSTEM_CA = Path(certifi.where()).read_text()


def route(name: str, match: Match = EVERYTHING, body: str = "fine") -> Route:
    source = Source(url=f"http://{name}.test", kind=Kind.HTTP, scheme="http", host=f"{name}.test")
    return Route(
        id=name,
        key=f"{name} {match.value} {body}",
        source=source,
        match=match,
        action=DirectResponse(status=200, body=body),
        public=True,
    )


def snapshot(port: int, digest: str, *routes: Route) -> ConfigSnapshot:
    settings = Settings(address=Address(host="127.0.0.1", port=port), insecure_server=True)
    return ConfigSnapshot(settings=settings, routes=routes, digest=digest)


@asynccontextmanager
async def fed_envoy(config: Latest[Compiled | None]) -> AsyncIterator[Board]:
    """An Envoy fed from `config`, without keeper or control plane."""
    with tempfile.TemporaryDirectory(prefix="pa-") as name:
        directory = Path(name)
        admin, ads_socket, bootstrap = directory / "admin.sock", directory / "ads.sock", directory / "envoy.json"
        bootstrap.write_text(json.dumps(build_bootstrap(admin, ads_socket)))
        local = LocalAddresses(
            authorize_socket=str(directory / "authorize.sock"),
            pages_socket=str(directory / "pages.sock"),
            system_ca=SYSTEM_CA,
        )
        board = Board(version="test", instance="test", health=Health(), keeper_pid=0)
        async with serve_ads(ads_socket, SystemClock()) as ads, asyncio.TaskGroup() as group:
            board.ads = ads
            feeding = group.create_task(Feeder(config, ads, local, board).run())
            process = await asyncio.create_subprocess_exec(
                *envoy_arguments(envoy_binary(None), bootstrap, concurrency=1),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                yield board
            finally:
                process.terminate()
                await process.wait()
                feeding.cancel()


async def ask(port: int, host: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/", headers={"host": host, "accept": "text/plain"}) as response,
    ):
        return response.status, await response.text()


async def in_force(board: Board, digest: str) -> None:
    async def is_so() -> bool:
        return board.in_force.value == digest

    await eventually(f"{digest} is in force", is_so)


async def test_a_route_that_only_envoy_refuses_stands_aside_by_itself() -> None:
    """R-4, R-21: from a fresh start, where nothing was ever accepted."""
    port = free_port()
    bad = route("bad", Match(MatchKind.REGEX, "("))
    routes = [route(f"good{number}") for number in range(5)]
    config: Latest[Compiled | None] = Latest(Compiled(snapshot(port, "one", *routes, bad)))

    async with fed_envoy(config) as board:
        await in_force(board, "one")

        assert [(await ask(port, f"good{number}.test"))[0] for number in range(5)] == [200] * 5
        status, body = await ask(port, "bad.test")
        assert board.offered is not None
        (fault,) = board.offered.faults
        assert status == 503
        assert fault.id in body
        assert fault.route_id == "bad"
        assert "envoy refuses it" in fault.reason
        assert board.health.reports[Check.XDS_ROUTES].attributes[f"fault.{fault.id}"] == str(fault)


async def test_a_change_that_only_envoy_refuses_leaves_the_accepted_version_and_later_changes_arrive() -> None:
    """R-20, R-22."""
    port = free_port()
    config: Latest[Compiled | None] = Latest(Compiled(snapshot(port, "one", route("a"), route("b"))))

    async with fed_envoy(config) as board:
        await in_force(board, "one")
        broken = route("b", Match(MatchKind.REGEX, "("), "new")
        config.set(Compiled(snapshot(port, "two", route("a", body="newer"), broken)))
        await in_force(board, "two")

        assert await ask(port, "a.test") == (200, "newer")
        assert await ask(port, "b.test") == (200, "fine")

        config.set(Compiled(snapshot(port, "three", route("a", body="newest"), broken)))
        await in_force(board, "three")
        assert await ask(port, "a.test") == (200, "newest")


async def test_a_taken_port_is_named_and_served_once_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Routes 13: a listener that cannot bind is tried again."""
    monkeypatch.setattr("pomerium_agent.envoy.ads_server.REBIND_EVERY", 0.5)
    port = free_port()
    with socket.create_server(("127.0.0.1", port), reuse_port=False) as taken:
        async with fed_envoy(Latest(Compiled(snapshot(port, "one", route("a"))))) as board:
            await eventually("the taken port is named", named_on(board))
            taken.close()
            await in_force(board, "one")
            assert (await ask(port, "a.test"))[0] == 200


async def test_a_taken_redirect_port_keeps_nothing_else_from_being_in_force() -> None:
    """Routes 13: only the redirect is missing, so the replica is ready."""
    port, redirect = free_port(), free_port()
    one = snapshot(port, "one", route("a"))
    config = replace(one, settings=replace(one.settings, http_redirect=Address(host="127.0.0.1", port=redirect)))
    with socket.create_server(("127.0.0.1", redirect), reuse_port=False):
        async with fed_envoy(Latest(Compiled(config))) as board:
            await in_force(board, "one")
            await eventually("the taken port is named", named_on(board))
            assert (await ask(port, "a.test"))[0] == 200


def named_on(board: Board) -> Callable[[], Awaitable[bool]]:
    async def named() -> bool:
        report = board.health.reports.get(Check.XDS_LISTENER)
        return report is not None and "cannot bind" in report.error

    return named
