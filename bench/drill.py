"""`make drill`, which is `python -m bench.drill`: the outage contract of docs/operating.md, tried out.

Two replicas under a small constant load; one thing after the other is taken away, and given back. A table says what
visitors noticed. Everything is real and on loopback: console, agents, Envoys, and a PostgreSQL where there is one.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.report import Cell, Column, Section
from pomerium_agent.demo.playground import Cluster, ConsoleAt, ReplicaAt, free_port, open_cluster, run_console, visitor
from pomerium_agent.demo.postgres import PostgresServer, find_programs, run_postgres
from pomerium_agent.demo.upstream import serve_upstream
from pomerium_agent.errors import SettingsError

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
        self.running: dict[str, tuple[ReplicaAt, AsyncExitStack]] = {}
        self.robot: Mapping[str, str] = {}
        self.tally = Tally()
        self.number = 0
        self.rows: list[tuple[Cell, ...]] = []
        self.broken: list[str] = []
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
        context = self.cluster.replica(name, port=self.ports[name], wait=wait)
        self.running[name] = (await stack.enter_async_context(context), stack)

    async def restart(self) -> None:
        """Kill replica one with all its processes, and start it anew with nothing but what is on disk."""
        replica, stack = self.running.pop("one")
        os.kill(replica.running.pid, signal.SIGKILL)
        await replica.running.process.wait()
        await stack.aclose()
        await self.start("one", wait=False)

    async def close(self) -> None:
        for _, stack in self.running.values():
            await stack.aclose()
        await self._consoles.aclose()

    # Who asks meanwhile.

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(name, host)) for name in self.ports for host in ("open", "private")]
            yield
            for task in tasks:
                task.cancel()

    async def _ask(self, name: str, host: str) -> None:
        url = f"https://{host}.{self.cluster.domain}:{self.ports[name]}/"
        headers = dict(self.robot) if host == "private" else {}
        while True:
            tally = self.tally
            try:
                async with self.client.get(url, headers=headers, allow_redirects=False) as response:
                    await response.read()
                    good = response.status == 200
            except (OSError, aiohttp.ClientError, TimeoutError):
                good = False
            tally.count(name, good=good)
            await asyncio.sleep(PAUSE)

    async def apply(self) -> None:
        self.number += 1
        routes = ROUTES.format(domain=self.cluster.domain, upstream=self.upstream)
        await self.cluster.apply("routes:" + routes + NEWS.format(number=self.number))

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

    async def fault(self, name: str, begin: Callable[[], Awaitable[None]], end: Callable[[], Awaitable[None]]) -> None:
        """One row of the table."""
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
        self.rows.append((name, lasted, tally.sent, tally.failed.get("one", 0), elsewhere, tally.last, news))
        await asyncio.sleep(KEPT_SECONDS)


async def faults(drill: Drill) -> None:
    """All of it, one after the other."""

    async def nothing() -> None:
        pass

    async def freeze() -> None:
        drill.signal_console(signal.SIGSTOP)

    async def thaw() -> None:
        drill.signal_console(signal.SIGCONT)

    async def console_and_agent() -> None:
        await drill.kill_console()
        await drill.kill("agent")

    async def console_and_replica() -> None:
        await drill.kill_console()
        await drill.restart()

    await drill.fault("control plane: refuses connections", drill.kill_console, drill.start_console)
    await drill.fault("control plane: accepts and hangs", freeze, thaw)
    await drill.fault("agent of one: killed", lambda: drill.kill("agent"), nothing)
    await drill.fault("envoy of one: killed", lambda: drill.kill("envoy"), nothing)
    await drill.fault("control plane away, agent of one killed", console_and_agent, drill.start_console)
    await drill.fault("control plane away, one started anew", console_and_replica, drill.start_console)
    postgres = drill.postgres
    if postgres is None:
        return

    async def stop_database() -> None:
        await asyncio.to_thread(postgres.stop, "immediate")

    async def start_database() -> None:
        await asyncio.to_thread(postgres.start)

    async def everything() -> None:
        await stop_database()
        await console_and_replica()

    async def everything_back() -> None:
        await start_database()
        await drill.start_console()

    await drill.fault("database: crashed", stop_database, start_database)
    await drill.fault("database and control plane away, one started anew", everything, everything_back)


COLUMNS = (
    Column("fault"),
    Column("lasted s"),
    Column("sent", "d"),
    Column("failed at one", "d"),
    Column("failed at two", "d"),
    Column("failing until s"),
    Column("news after s"),
)
NOTES = (
    "Two replicas, a public route and one for a service account at each. `failing until`: seconds after the fault",
    "began at which a request failed last; 0 means none did. `news after`: seconds from a change at the console, once",
    "everything is back, until both replicas serve it.",
)


async def run_drill(place: Path, *, memory: bool) -> tuple[Section, list[str]]:
    """The table, and what of the contract did not hold. With `memory` without a database, be there one or not."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(open_cluster(place, CLUSTER))
        upstream = await stack.enter_async_context(serve_upstream())
        client = await stack.enter_async_context(visitor(cluster.ca_file))
        drill = Drill(cluster, client, upstream.port)
        stack.push_async_callback(drill.close)
        if not memory and _has_database():
            drill.postgres = await asyncio.to_thread(stack.enter_context, run_postgres())
            await cluster.verb("console", "cluster", "set-storage", CLUSTER, drill.postgres.url())
        await drill.apply()
        verb = ("console", "service-account", "create", "robot", "--cluster", CLUSTER, "--json")
        drill.robot = json.loads(await cluster.verb(*verb))["headers"]
        await drill.start("one")
        await drill.start("two")
        await drill.news()
        await asyncio.sleep(KEPT_SECONDS)
        async with drill.load():
            await faults(drill)
        title = f"what visitors notice; records in {'PostgreSQL' if drill.postgres else 'memory'}"
        return Section(name="drill", title=title, columns=COLUMNS, rows=drill.rows, notes=NOTES), drill.broken


def _has_database() -> bool:
    try:
        find_programs()
    except SettingsError as error:
        print(f"without a database: {error}", file=sys.stderr)
        return False
    return True


def main() -> int:
    """Run it and print the table; 1 when the contract did not hold."""
    parser = argparse.ArgumentParser(prog="python -m bench.drill", description=main.__doc__)
    parser.add_argument("--memory", action="store_true", help="keep records in memory even where there is a PostgreSQL")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pa-") as place:  # short: unix socket paths may not be long
        section, broken = asyncio.run(run_drill(Path(place), memory=options.memory))
    print("\n".join(section.lines()))
    for each in broken:
        print(f"BROKEN {each}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
