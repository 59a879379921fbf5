"""`make drill-upgrade`, which is `python -m bench.upgrade`: that upgrades cost visitors nothing, tried out and counted.

Two replicas behind a small balancer, which sends nobody to a replica that says it is not ready, under a small constant
load. Each is restarted in turn, as a rolling update does; then one is upgraded in place. Everything is real.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import aiohttp

from bench.drill_world import CLUSTER, PAUSE, Drill, Tally
from bench.report import Cell, Column, Section
from pomerium_agent.demo.playground import free_port, open_cluster, visitor, wait_until_ready
from pomerium_agent.demo.processes import run_verb, stop
from pomerium_agent.demo.upstream import serve_upstream

COLUMNS = (Column("step"), Column("lasted s"), Column("sent", "d"), Column("failed", "d"))
NOTES = (
    "A public route, and one for a service account; records in memory. Through the balancer: a request goes to either",
    "replica that said it is ready a moment ago. In place: every request goes to the replica that is upgraded.",
)
LOOK_EVERY = 0.2  # seconds between two looks of the balancer at the readiness of a replica
NOTICE = 2  # seconds that a replica says it is not ready before it drains
AFTER = 2.0  # seconds for which failures are still counted towards a step


@dataclass(slots=True)
class Balancer:
    """Who may be sent where: all replicas that were ready at the last look."""

    health: dict[str, str]  # addresses, by replica
    ready: set[str] = field(default_factory=set)
    only: str = ""  # send everybody here, ready or not

    def choices(self) -> list[str]:
        return [self.only] if self.only else sorted(self.ready)

    async def look(self, client: aiohttp.ClientSession) -> None:
        """Look at all of them, again and again."""
        while True:
            for name, address in self.health.items():
                good = False
                with suppress(OSError, aiohttp.ClientError, TimeoutError):
                    async with client.get(f"http://{address}/readyz") as answer:
                        good = answer.status == 200
                (self.ready.add if good else self.ready.discard)(name)
            await asyncio.sleep(LOOK_EVERY)


class UpgradeDrill:
    """The steps, and the load that goes on meanwhile."""

    def __init__(self, drill: Drill) -> None:
        self.drill = drill
        self.balancer = Balancer({name: f"127.0.0.1:{free_port()}" for name in drill.ports})
        self.rows: list[tuple[Cell, ...]] = []
        self.failed = 0

    async def start(self, name: str) -> None:
        self.drill.environment = {
            "HEALTH_CHECK_ADDR": self.balancer.health[name],
            "POMERIUM_AGENT_DRAIN_NOTICE": str(NOTICE),
        }
        await self.drill.start(name)

    async def restart(self, name: str) -> None:
        """SIGTERM, and start it again once it is gone."""
        replica, stack = self.drill.running.pop(name)
        await stop(replica.running.process)
        await stack.aclose()
        await self.start(name)

    async def upgrade(self, name: str, *options: str) -> None:
        """`pomerium-agent upgrade`, at the replica that all requests go to."""
        replica = self.drill.running[name][0]
        self.balancer.only = name
        print(await run_verb("upgrade", *options, "--socket", str(replica.control_socket)), file=sys.stderr)
        await wait_until_ready(replica)

    async def step(self, name: str, act: Callable[[], Awaitable[None]]) -> None:
        """One row of the table."""
        print(f"{name} …", file=sys.stderr, flush=True)
        self.drill.tally = tally = Tally()
        await act()
        lasted = time.monotonic() - tally.began
        await asyncio.sleep(AFTER)
        self.balancer.only = ""
        failed = sum(tally.failed.values())
        self.failed += failed
        self.rows.append((name, lasted, tally.sent, failed))

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self.balancer.look(self.drill.client))
            while True:
                if len(self.balancer.ready) == len(self.balancer.health):
                    break
                await asyncio.sleep(LOOK_EVERY)  # other processes: there is nothing to be woken by
            tasks = [group.create_task(self._ask(host)) for host in ("open", "private") for _ in range(2)]
            yield
            for task in (looking, *tasks):
                task.cancel()

    async def _ask(self, host: str) -> None:
        drill, headers = self.drill, dict(self.drill.robot) if host == "private" else {}
        for number in count():
            tally, choices = drill.tally, self.balancer.choices()
            name = choices[number % len(choices)] if choices else "nobody"
            good = False
            if choices:
                url = f"https://{host}.{drill.cluster.domain}:{drill.ports[name]}/"
                with suppress(OSError, aiohttp.ClientError, TimeoutError):
                    async with drill.client.get(url, headers=headers, allow_redirects=False) as response:
                        await response.read()
                        good = response.status == 200
            tally.count(name, good=good)
            await asyncio.sleep(PAUSE)


async def run_drill(place: Path) -> tuple[Section, int]:
    """The table, and how many requests failed."""
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(open_cluster(place, CLUSTER))
        upstream = await stack.enter_async_context(serve_upstream())
        client = await stack.enter_async_context(visitor(cluster.ca_file))
        drill = Drill(cluster, client, upstream.port)
        stack.push_async_callback(drill.close)
        await drill.apply()
        verb = ("console", "service-account", "create", "robot", "--cluster", CLUSTER, "--json")
        drill.robot = json.loads(await cluster.verb(*verb))["headers"]
        upgrades = UpgradeDrill(drill)
        await upgrades.start("one")
        await upgrades.start("two")
        await drill.news()
        async with upgrades.load():
            await upgrades.step("balanced: one restarted", lambda: upgrades.restart("one"))
            await upgrades.step("balanced: two restarted", lambda: upgrades.restart("two"))
            await upgrades.step("in place: agent replaced", lambda: upgrades.upgrade("one", "--no-keeper"))
            await upgrades.step("in place: keeper and agent replaced", lambda: upgrades.upgrade("one", "--keeper"))
        title = "what visitors notice of upgrades"
        return Section(name="upgrade", title=title, columns=COLUMNS, rows=upgrades.rows, notes=NOTES), upgrades.failed


def main() -> int:
    """Run it and print the table; 1 when a request failed."""
    argparse.ArgumentParser(prog="python -m bench.upgrade", description=main.__doc__).parse_args()
    with tempfile.TemporaryDirectory(prefix="pa-") as place:  # short: unix socket paths may not be long
        section, failed = asyncio.run(run_drill(Path(place)))
    print("\n".join(section.lines()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
