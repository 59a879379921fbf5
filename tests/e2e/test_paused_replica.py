"""A replica that is paused past its lease: another one does its work, and two never do it at once."""

import asyncio
import json
import os
import signal
from typing import Any

import pytest

from pomerium_agent.demo.playground import ReplicaAt
from tests.e2e.world import CLUSTER, HELLO, eventually, open_world
from tests.fakes.postgres import open_postgres_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


async def is_active(replica: ReplicaAt) -> bool:
    """Whether it refreshes sessions, which one of them does."""
    statuses: Any = (await replica.status())["statuses"]
    manager = statuses.get("identity.manager", {"attributes": {}})
    return bool(manager["attributes"].get("role") == "active")


async def test_a_replica_that_was_paused_past_its_lease_does_not_take_it_back() -> None:
    """D-31 to D-33, N-34: the other one takes over; who wakes up finds out before doing anything under the lease."""
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
                os.kill(agent, signal.SIGSTOP)
                try:
                    await eventually("the other one takes over", lambda: is_active(other), within=90)
                    assert (await world.get(other, "hello")).status == 200
                    async with database.connect() as connection:
                        holder = await connection.fetchval(
                            "select id from pomerium.leases where name = 'identity_manager'"
                        )
                finally:
                    os.kill(agent, signal.SIGCONT)

                async def woke_up_and_stood_back() -> bool:
                    return not await is_active(paused) and await is_active(other)

                await eventually("the one that woke up stands back", woke_up_and_stood_back, within=60)
                async with database.connect() as connection:
                    assert holder == await connection.fetchval(
                        "select id from pomerium.leases where name = 'identity_manager'"
                    )
                assert (await paused.pids())["agent"] == agent
                assert json.dumps(await paused.status())
