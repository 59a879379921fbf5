"""`make drill`, which is `python -m bench.drill`: the outage contract of docs/operating.md, tried out.

Two replicas under a small constant load; one thing after the other is taken away, and given back. A table says what
visitors noticed. Everything is real and on loopback: console, agents, Envoys, and a PostgreSQL where there is one.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from bench.drill_faults import faults
from bench.drill_world import CLUSTER, KEPT_SECONDS, Drill
from bench.report import Column, Section
from pomerium_agent.demo.playground import open_cluster, visitor
from pomerium_agent.demo.postgres import find_programs, run_postgres
from pomerium_agent.demo.upstream import serve_upstream
from pomerium_agent.errors import SettingsError

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
        drill.environment = {"POMERIUM_AGENT_ON_REFUSED": "serve"}  # which matters only without an overlap
        stack.push_async_callback(drill.close)
        if not memory and _has_database():
            drill.postgres = await asyncio.to_thread(stack.enter_context, run_postgres())
            await cluster.verb("console", "cluster", "set-storage", CLUSTER, drill.postgres.url())
        await drill.login.start()
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
