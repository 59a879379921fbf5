"""The world of the drill: two replicas under a small constant load, and all that can be taken away from them."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp

from bench.drill_login import Login
from bench.report import Cell
from pomerium_agent.demo.playground import Cluster, ConsoleAt, ReplicaAt, free_port, run_console
from pomerium_agent.demo.postgres import PostgresServer
from pomerium_agent.zero.cluster_token import fingerprint

CLUSTER = "drill"
LASTS = 6.0  # seconds that something is away
PAUSE = 0.05  # seconds between two requests of one visitor; four visitors ask
NEWS_SECONDS = 60.0  # within which a change must be served once everything is back
KEPT_SECONDS = 3.0  # for what is in force to be on disk
ROUTES = """
  - from: https://open.{domain}
    to: http://127.0.0.1:{upstream}
    allow_public_unauthenticated_access: true
  - from: https://private.{domain}
    to: http://127.0.0.1:{upstream}
    allow_any_authenticated_user: true
"""
NEWS = "    set_response_headers: {{x-news: '{number}'}}\n"


@dataclass(slots=True)
class Tally:
    """What visitors saw since a fault began."""

    began: float = field(default_factory=time.monotonic)
    sent: int = 0
    failed: dict[str, int] = field(default_factory=dict)  # by replica
    last: float = 0.0  # seconds after the beginning at which something failed last

    def count(self, replica: str, *, good: bool) -> None:
        self.sent += 1
        if not good:
            self.failed[replica] = self.failed.get(replica, 0) + 1
            self.last = time.monotonic() - self.began


class Drill:
    """The world of the drill. `one` is the replica that is maltreated, `two` is left alone."""

    def __init__(self, cluster: Cluster, client: aiohttp.ClientSession, upstream: int) -> None:
        self.cluster, self.client, self.upstream = cluster, client, upstream
        self.console: ConsoleAt | None = cluster.console
        self.postgres: PostgresServer | None = None
        self.ports = {"one": free_port(), "two": free_port()}
        self.login = Login(f"https://authenticate.{cluster.domain}:{self.ports['one']}")
        self.running: dict[str, tuple[ReplicaAt, AsyncExitStack]] = {}
        self.robot: Mapping[str, str] = {}
        self.tally = Tally()
        self.number = 0
        self.rows: list[tuple[Cell, ...]] = []
        self.broken: list[str] = []
        self.token_file = cluster.directory / "token"
        self.token_file.write_text(cluster.token)
        self.environment: Mapping[str, str] = {}
        self._consoles = AsyncExitStack()

    # What is done to it.

    async def kill_console(self) -> None:
        assert self.console is not None
        os.kill(self.console.running.pid, signal.SIGKILL)
        await self.console.running.process.wait()

    async def start_console(self) -> None:
        before = self.cluster.console
        ports = [int(url.split(":")[2].split("/")[0]) for url in (before.cluster_api, before.connect)]
        again = run_console(before.data_dir, self.cluster.directory, api_port=ports[0], grpc_port=ports[1])
        self.console = await self._consoles.enter_async_context(again)

    def signal_console(self, number: signal.Signals) -> None:
        assert self.console is not None
        os.kill(self.console.running.pid, number)

    async def kill(self, part: str) -> None:
        """The agent or the Envoy of replica one."""
        os.kill((await self.running["one"][0].pids())[part], signal.SIGKILL)

    async def start(self, name: str, *, wait: bool = True) -> None:
        stack = AsyncExitStack()
        context = self.cluster.replica(
            name, port=self.ports[name], wait=wait, token_file=self.token_file, environment=self.environment
        )
        self.running[name] = (await stack.enter_async_context(context), stack)

    async def restart(self) -> None:
        """Kill replica one with all its processes, and start it anew with nothing but what is on disk."""
        replica, stack = self.running.pop("one")
        os.kill(replica.running.pid, signal.SIGKILL)
        await replica.running.process.wait()
        await stack.aclose()
        await self.start("one", wait=False)

    async def rotate(self, overlap: str) -> str:
        """The new token, which nobody has yet."""
        verb = ("console", "cluster", "rotate-token", CLUSTER, "--overlap", overlap, "--json")
        return str(json.loads(await self.cluster.verb(*verb))["token"])

    async def hand_out(self, token: str) -> None:
        """Put the token where replicas look for it, and wait until both use it."""
        new = self.token_file.with_suffix(".new")
        new.write_text(token)
        new.replace(self.token_file)
        async with asyncio.timeout(NEWS_SECONDS):
            for name in self.ports:
                while True:
                    if await self._uses(name, fingerprint(token)):
                        break
                    await asyncio.sleep(PAUSE)  # other processes: there is nothing to be woken by

    async def _uses(self, name: str, wanted: str) -> bool:
        with suppress(OSError, aiohttp.ClientError, TimeoutError):
            status = await self.running[name][0].status()
            return bool(status["connected"]) and status["token"]["fingerprint"] == wanted  # type: ignore[index]  # our own JSON
        return False

    async def close(self) -> None:
        for _, stack in self.running.values():
            await stack.aclose()
        await self._consoles.aclose()
        await self.login.stop()

    # Who asks meanwhile.

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(name, host)) for name in self.ports for host in ("open", "private")]
            yield
            for task in tasks:
                task.cancel()

    @asynccontextmanager
    async def person(self, client: aiohttp.ClientSession) -> AsyncIterator[None]:
        """Somebody who is signed in asks replica one too."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._ask("one", "private", client))
            yield
            task.cancel()

    def url(self, name: str, host: str) -> str:
        return f"https://{host}.{self.cluster.domain}:{self.ports[name]}/"

    async def _ask(self, name: str, host: str, person: aiohttp.ClientSession | None = None) -> None:
        url, client = self.url(name, host), person or self.client
        headers = dict(self.robot) if host == "private" and person is None else {}
        while True:
            tally = self.tally
            try:
                async with client.get(url, headers=headers, allow_redirects=False) as response:
                    await response.read()
                    good = response.status == 200
            except (OSError, aiohttp.ClientError, TimeoutError):
                good = False
            tally.count(name, good=good)
            await asyncio.sleep(PAUSE)

    async def apply(self) -> None:
        self.number += 1
        routes = ROUTES.format(domain=self.cluster.domain, upstream=self.upstream)
        await self.cluster.apply(self.login.settings + "routes:" + routes + NEWS.format(number=self.number))

    async def news(self) -> float:
        """Change the configuration; seconds until both replicas serve the change."""
        await self.apply()
        began = time.monotonic()
        async with asyncio.timeout(NEWS_SECONDS):
            for port in self.ports.values():
                while True:
                    if await self._seen(port) == str(self.number):
                        break
                    await asyncio.sleep(PAUSE)  # other processes: there is nothing to be woken by
        return time.monotonic() - began

    async def _seen(self, port: int) -> str:
        url = f"https://private.{self.cluster.domain}:{port}/"
        with suppress(OSError, aiohttp.ClientError, TimeoutError):
            async with self.client.get(url, headers=dict(self.robot)) as response:
                return response.headers.get("x-news", "")
        return ""

    async def fault(
        self,
        name: str,
        begin: Callable[[], Awaitable[None]],
        end: Callable[[], Awaitable[None]],
        *,
        may_fail: int | None = 0,
    ) -> None:
        """One row of the table; `may_fail`: requests at the replica that it strikes, None where that one is away."""
        print(f"{name} …", file=sys.stderr, flush=True)
        self.tally = tally = Tally()
        await begin()
        await asyncio.sleep(LASTS)
        lasted = time.monotonic() - tally.began
        await end()
        try:
            news: Cell = await self.news()
        except TimeoutError:
            news = "never"
            self.broken.append(f"{name}: the next change was not served within {NEWS_SECONDS:.0f} s")
        elsewhere = tally.failed.get("two", 0)
        if elsewhere:
            self.broken.append(f"{name}: {elsewhere} requests failed at the replica that was left alone")
        struck = tally.failed.get("one", 0)
        if may_fail is not None and struck > may_fail:
            self.broken.append(f"{name}: {struck} requests failed, and no more than {may_fail} may")
        self.rows.append((name, lasted, tally.sent, struck, elsewhere, tally.last, news))
        await asyncio.sleep(KEPT_SECONDS)
