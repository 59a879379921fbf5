"""Replicas that share a PostgreSQL: real console, agents, Envoys and database."""

import asyncio
import json

import pytest

from tests.e2e.world import CLUSTER, HELLO, eventually, open_world
from tests.fakes.postgres import open_postgres_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


async def test_replicas_that_share_a_database_and_what_they_do_while_it_is_away() -> None:
    """Z-23, Z-65, C7; architecture 7: what is known goes on, what changes comes later, and no process ends."""
    private = HELLO.replace("allow_public_unauthenticated_access", "allow_any_authenticated_user")
    second = HELLO.replace("hello.DOMAIN", "second.DOMAIN")
    with open_postgres_server() as postgres:
        async with postgres.database() as database, open_world() as world:
            await world.cluster.verb("console", "cluster", "set-storage", CLUSTER, database.url)
            await world.apply(private)
            made = json.loads(
                await world.cluster.verb(
                    "console", "service-account", "create", "robot", "--cluster", CLUSTER, "--json"
                )
            )
            headers = {"accept": "application/json", **made["headers"]}
            async with world.cluster.replica("r1") as one, world.cluster.replica("r2") as two:
                for replica in (one, two):

                    async def gets_in() -> bool:
                        return (await world.get(replica, "hello", headers=headers)).status == 200  # noqa: B023

                    await eventually("the robot gets in at every replica", gets_in)
                async with database.connect() as connection:
                    assert await connection.fetchval("select count(*) from pomerium.records") > 0
                before = [await replica.pids() for replica in (one, two)]

                await asyncio.to_thread(postgres.server.stop, "immediate")
                for replica in (one, two):
                    assert (await world.get(replica, "hello", headers=headers)).status == 200
                    await eventually("status says that it is out of reach", lambda: _unhealthy(replica))  # noqa: B023
                await world.apply(private, second)
                await asyncio.to_thread(postgres.server.start)

                for replica in (one, two):

                    async def has_second() -> bool:
                        return (await world.get(replica, "second")).status == 200  # noqa: B023

                    await eventually("the new route is served at every replica", has_second, within=90)
                assert [await replica.pids() for replica in (one, two)] == before


async def _unhealthy(replica: object) -> bool:
    status = await replica.status()  # type: ignore[attr-defined]
    return "database" in json.dumps(status)
