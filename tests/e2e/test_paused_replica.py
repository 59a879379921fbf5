"""A replica that is paused past its lease: another one does its work, and two never do it at once."""

import asyncio
import os
import signal
from typing import Any

import pytest

from pomerium_agent.demo.playground import ReplicaAt
from pomerium_agent.demo.processes import stop
from tests.e2e.world import CLUSTER, HELLO, World, eventually, open_world
from tests.fakes.postgres import Database, open_postgres_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

IDENTITY = "identity_manager"


async def is_active(replica: ReplicaAt) -> bool:
    """Whether it refreshes sessions, which one of them does."""
    statuses: Any = (await replica.status())["statuses"]
    manager = statuses.get("identity.manager", {"attributes": {}})
    return bool(manager["attributes"].get("role") == "active")


async def serves(world: World, replica: ReplicaAt) -> bool:
    return (await world.get(replica, "second")).status == 200


async def holder_of(database: Database, lease: str) -> str | None:
    """Who holds it now, by the clock of the database."""
    async with database.connect() as connection:
        found: str | None = await connection.fetchval(
            "select id from pomerium.leases where name = $1 and expires_at > now()", lease
        )
    return found


async def test_a_replica_that_was_paused_past_its_lease_does_not_take_it_back() -> None:
    """D-20, Z-29: another one takes over; who wakes up finds out, missed nothing, and can take over again."""
    with open_postgres_server() as postgres:
        async with postgres.database() as database, open_world() as world:
            storage = world.cluster.directory / "storage"
            await asyncio.to_thread(storage.write_text, database.url)
            await world.cluster.verb("console", "cluster", "set-storage", CLUSTER, "--from-file", str(storage))
            await world.apply(HELLO)
            async with world.cluster.replica("r1") as one, world.cluster.replica("r2") as two:

                async def somebody() -> bool:
                    return await is_active(one) or await is_active(two)

                await eventually("one of them is active", somebody)
                paused, other = (one, two) if await is_active(one) else (two, one)
                agent = (await paused.pids())["agent"]
                before = await holder_of(database, IDENTITY)
                os.kill(agent, signal.SIGSTOP)
                try:
                    await eventually("the other one takes over", lambda: is_active(other), within=90)
                    assert (await world.get(other, "hello")).status == 200
                    holder = await holder_of(database, IDENTITY)
                    assert holder not in (None, before)
                    await world.apply(HELLO, HELLO.replace("hello.DOMAIN", "second.DOMAIN"))
                    await eventually("the other one serves what is new", lambda: serves(world, other), within=60)
                finally:
                    os.kill(agent, signal.SIGCONT)

                async def woke_up_and_stood_back() -> bool:
                    assert await holder_of(database, IDENTITY) == holder
                    return not await is_active(paused) and await is_active(other)

                await eventually("the one that woke up stands back", woke_up_and_stood_back, within=60)
                await eventually("it missed nothing that was applied", lambda: serves(world, paused))
                assert await holder_of(database, IDENTITY) == holder
                assert (await paused.pids())["agent"] == agent

                await stop(other.running.process)
                await eventually("it takes over from who stops, before that lease expires", lambda: is_active(paused))
                assert await holder_of(database, IDENTITY) not in (None, holder)
