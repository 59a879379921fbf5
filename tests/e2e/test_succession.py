"""One real Envoy takes over from another below a real keeper (envoy.md 5, routes 12.2, R-23, architecture 7)."""

import asyncio
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from pomerium_agent.envoy.binary import envoy_binary
from pomerium_agent.keeper.hot import SHARED_MEMORY
from tests.fakes.bare_envoy import bootstrap, cluster, pipe
from tests.fakes.stage import TIMEOUT, Stage, gone, stage

pytestmark = pytest.mark.e2e

PATIENCE = {"envoy_drain": 1, "envoy_leave": 2}
SLOW = "/slow"


@dataclass
class Play:
    """A keeper whose agents ask for one Envoy after the other, and visitors all the while."""

    on: Stage
    listen: int
    asked: asyncio.Event
    go: asyncio.Event
    answers: Counter[str] = field(default_factory=Counter)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)  # for each answer
    failures: list[str] = field(default_factory=list)
    agent: int = 0

    async def wait(self, event: str, **facts: object) -> dict[str, Any]:
        return await asyncio.to_thread(self.on.wait, "agent", event, **facts)

    async def next_agent(self) -> int:
        """The agent dies, and its successor asks for what it asks for. Returns the Envoy it was told of."""
        if self.agent:
            os.kill(self.agent, signal.SIGKILL)
        self.agent = (await self.wait("started"))["pid"]
        while True:
            said = (await self.wait("heard"))["said"]
            if said.get("request") is not None:
                return int(said["pid"])

    async def sees(self, answer: str) -> None:
        """Wait until visitors are answered by this Envoy."""
        before = self.answers[answer]
        async with asyncio.timeout(TIMEOUT), self.news:
            await self.news.wait_for(lambda: self.answers[answer] > before)

    async def visit(self) -> None:
        """Over a connection that is kept and over new ones, until cancelled."""
        url = f"http://127.0.0.1:{self.listen}/"
        async with aiohttp.ClientSession() as kept:
            while True:
                async with aiohttp.ClientSession() as fresh:
                    for client in (kept, fresh):
                        try:
                            async with client.get(url, timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as response:
                                body = await response.text()
                        except aiohttp.ClientError as error:
                            self.failures.append(repr(error))
                        else:
                            async with self.news:
                                self.answers[body] += 1
                                self.news.notify_all()


def _configuration(here: Path, listen: int, answer: str, **more: object) -> dict[str, Any]:
    routes: list[dict[str, Any]] = [
        {"match": {"path": SLOW}, "route": {"cluster": "upstream", "timeout": "0s"}},
        {"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": answer}}},
    ]
    upstream = cluster("upstream", pipe(here / "upstream"))
    return {**bootstrap(here / "run" / "envoy-admin.sock", listen, [upstream], routes), **more}


def _says(here: Path, name: str, configuration: dict[str, Any], binary: Path | None = None) -> dict[str, list[str]]:
    """The part of an agent that asks for this Envoy."""
    path = here / f"{name}.json"
    path.write_text(json.dumps(configuration))
    argv = [str(binary or envoy_binary(None)), "-c", str(path), "--concurrency", "1", "--log-level", "warning"]
    return {
        "says": [json.dumps({"op": "envoy", "argv": argv, "bootstrap": str(path), "hot": True, "request": 1})],
    }


def _shared_memory_of(on: Stage) -> list[Path]:
    """What the Envoys of this keeper share, by the names of their sockets: number of the line times ten, and epoch."""
    numbers = {int(path.name.rpartition("_")[2]) // 10 * 10 for path in on.run.glob("hot_parent_*")}
    return [SHARED_MEMORY / f"envoy_shared_memory_{number}" for number in numbers]


@asynccontextmanager
async def _play(
    here: Path, listen: int, *names: str, second: dict[str, list[str]] | None = None
) -> AsyncIterator[Play]:
    """Begin with the first of `names`; each answers visitors with its name. `second`: a part in between."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        asked.set()
        await go.wait()
        return web.Response(text="at last")

    app = web.Application()
    app.router.add_get(SLOW, slow)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(here / "upstream")).start()
    parts = [_says(here, name, _configuration(here, listen, name)) for name in names]
    if second is not None:
        parts.insert(1, second)
    try:
        with stage(here, agent=parts, patience=PATIENCE) as on:
            play = Play(on, listen, asked, go)
            await play.next_agent()
            async with asyncio.TaskGroup() as group:
                visits = group.create_task(play.visit())
                await play.sees(names[0])
                play.failures.clear()  # of the time before it listened
                yield play
                visits.cancel()
            shared = _shared_memory_of(on)
            assert shared
            assert any(path.exists() for path in shared)
            on.keeper.send_signal(signal.SIGTERM)
            said, _ = await asyncio.to_thread(on.keeper.communicate)
            assert on.keeper.returncode == 0, said
            assert not on.run.exists()
            assert not [path for path in shared if path.exists()]
    finally:
        go.set()
        await runner.cleanup()


async def test_nobody_notices_that_one_envoy_took_over_from_another(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Not who comes with a new request, nor who still waits for an answer of the old one; R-23."""
    async with _play(tmp_path, free_port(), "first", "second") as play, aiohttp.ClientSession() as client:
        slow = asyncio.create_task(client.get(f"http://127.0.0.1:{play.listen}{SLOW}"))
        await asyncio.wait_for(play.asked.wait(), TIMEOUT)
        first = await play.next_agent()
        told = (await play.wait("heard"))["said"]

        await play.sees("second")
        play.go.set()
        assert await (await slow).text() == "at last"

        assert told["event"] == "envoy"
        assert told["pid"] != first
        await asyncio.to_thread(gone, first)
        await play.sees("second")
        assert play.failures == []


async def test_an_envoy_that_does_not_take_its_bootstrap_replaces_nobody(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """And when the old one crashes after that, it is the old one that comes back."""
    bad = _says(tmp_path, "bad", {"static_resources": {"listeners": [{"name": "without address"}]}})
    async with _play(tmp_path, free_port(), "first", second=bad) as play:
        first = await play.next_agent()
        refused = (await play.wait("heard"))["said"]

        assert refused["event"] == "envoy-refused"
        assert "does not take its bootstrap" in refused["reason"]
        await play.sees("first")
        assert play.failures == []

        os.kill(first, signal.SIGKILL)
        await play.sees("first")


async def test_an_envoy_that_ends_before_it_serves_replaces_nobody(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """And no other can after it, which is said: Envoy lets none in that comes after one that was lost."""
    lame = tmp_path / "lame"
    lame.write_text(f'#!/bin/sh\ncase "$*" in *validate*) exec {envoy_binary(None)} "$@";; esac\nexit 7\n')
    lame.chmod(0o755)
    second = _says(tmp_path, "lame", json.loads(json.dumps({"admin": {}})), binary=lame)
    async with _play(tmp_path, free_port(), "first", "third", second=second) as play:
        first = await play.next_agent()
        refused = (await play.wait("heard"))["said"]
        assert "ended before it served, with code 7" in refused["reason"]

        assert await play.next_agent() == first
        assert "restart the service" in (await play.wait("heard"))["said"]["reason"]
        await play.sees("first")
        assert play.failures == []


async def test_an_envoy_that_took_over_and_crashed_comes_back_beside_the_one_that_leaves(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    async with _play(tmp_path, free_port(), "first", "second") as play:
        await play.next_agent()
        second = (await play.wait("heard"))["said"]["pid"]
        await play.sees("second")

        os.kill(second, signal.SIGKILL)
        assert (await play.wait("heard"))["said"] == {"event": "envoy", "pid": 0}
        assert (await play.wait("heard"))["said"]["pid"] not in (0, second)
        await play.sees("second")


async def test_who_comes_next_waits_until_the_one_before_the_last_has_left(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Envoy would otherwise end that one at once, with all that it still had to finish."""
    async with _play(tmp_path, free_port(), "first", "second", "third") as play:
        first = await play.next_agent()
        await play.sees("second")
        await play.next_agent()

        await play.sees("third")

        assert gone(first)
        assert play.failures == []


async def test_the_same_envoy_in_another_place_stays(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """As a release brings it that has another version of ours and the same of Envoy."""
    port = free_port()
    elsewhere = tmp_path / "elsewhere"
    shutil.copy(envoy_binary(None), elsewhere)
    second = _says(tmp_path, "first", _configuration(tmp_path, port, "first"), binary=elsewhere)
    async with _play(tmp_path, port, "first", "third", second=second) as play:
        first = await play.next_agent()
        assert await play.next_agent() == first  # who runs while "third" is on its way
        await play.sees("third")

        assert play.answers.keys() == {"first", "third"}
        assert play.failures == []


async def test_the_end_comes_also_while_one_takes_over_from_another(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    async with _play(tmp_path, free_port(), "first", "second") as play:
        await play.next_agent()
