"""A database shared with others: replicas of ours with other clocks, and programs that write as the reference does.

D-13, D-20, D-31, D-32; V1, V2, V3, V7.
"""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from pomerium_agent.databroker import Backend
from pomerium_agent.databroker.postgres import PostgresBackend, open_postgres
from pomerium_agent.databroker.postgres.tail import PATIENCE
from pomerium_agent.databroker.postgres.watch import POLL
from pomerium_agent.errors import CursorExpired, DatabrokerUnavailable
from pomerium_agent.records import Cursor, Record
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.runtime.health import Health
from tests.contract.stores import SOON, end, first, origin, session, so_far, struct
from tests.fakes.clock import ManualClock, settle
from tests.fakes.postgres import Connection, Database, Postgres

# As the reference writes: one statement, no lock (11.3).
INSERT = """
    with change as (
        insert into pomerium.record_changes (type, id, data, modified_at) values ('x', $1, '{}', now())
        returning version
    )
    insert into pomerium.records (type, id, version, data) select 'x', $1, version, '{}' from change
    returning version
"""


async def keep_reading(backend: Backend, cursor: Cursor, count: int) -> list[Record]:
    """The next `count` changes, by a reader that comes again where it was when the store was out of reach."""
    found: list[Record] = []
    async with asyncio.timeout(4 * SOON):
        while len(found) < count:
            try:
                found += await first(1, backend.changes(cursor))
                cursor = Cursor(cursor.server_version, found[-1].version)
            except DatabrokerUnavailable:
                await asyncio.sleep(0.05)
    return found


async def two_writers(connections: AsyncExitStack, database: Database) -> list[Connection]:
    return [await connections.enter_async_context(database.connect()) for _ in range(2)]


@pytest.mark.parametrize(("ends", "empty"), [("commit", False), ("commit", True), ("rollback", False)])
async def test_a_change_that_commits_late_is_not_missed(postgres: Postgres, ends: str, empty: bool) -> None:
    """D-13, V1: a later version is there first; readers wait until the earlier one came or cannot come."""
    async with (
        postgres.database() as database,
        open_postgres(database.url, SystemClock(), Health()) as backend,
        AsyncExitStack() as connections,
    ):
        slow, quick = await two_writers(connections, database)
        if not empty:
            await backend.put([session("before")])
        cursor = await end(backend)
        await slow.execute("begin")
        early = await slow.fetchval(INSERT, "early")
        late = await quick.fetchval(INSERT, "late")
        await quick.execute("notify pomerium_record_change")
        assert early < late
        assert await quick.fetchval("select max(version) from pomerium.record_changes") == late  # what a reader sees

        assert await so_far(backend, cursor) == []
        copied, records = await backend.latest("x")
        assert (copied, [record.id for record in records]) == (cursor, ["late"])
        async with asyncio.TaskGroup() as group:
            ids = ["early", "late"] if ends == "commit" else ["late"]
            reading = group.create_task(first(len(ids), backend.changes(cursor)))
            await settle()
            await slow.execute(ends)

        assert [change.id for change in reading.result()] == ids
        assert [change.id for change in await so_far(backend, copied)] == ids


async def test_our_own_writes_are_seen_past_a_transaction_that_wrote_nothing_yet(postgres: Postgres) -> None:
    """Only a hole in the log makes readers wait, not every transaction of somebody else."""
    async with (
        postgres.database() as database,
        open_postgres(database.url, SystemClock(), Health()) as backend,
        AsyncExitStack() as connections,
    ):
        idle, writing = await two_writers(connections, database)
        cursor = await origin(backend)
        await idle.execute("begin; select count(*) from pomerium.record_changes")
        await backend.put([struct("x", "1")])
        await writing.execute("begin")
        await writing.fetchval(INSERT, "2")

        assert [change.id for change in await so_far(backend, cursor)] == ["1"]
        await backend.put([struct("x", "3")])
        assert [change.id for change in await so_far(backend, cursor)] == ["1"]
        await writing.execute("commit")
        assert [change.id for change in await so_far(backend, cursor)] == ["1", "2", "3"]


async def test_many_writers_of_both_kinds_are_seen_completely(postgres: Postgres) -> None:
    """D-13: ours take turns, the others do not; transactions of theirs end in any order."""
    async with (
        postgres.database() as database,
        open_postgres(database.url, SystemClock(), Health()) as backend,
        open_postgres(database.url, SystemClock(), Health()) as other,
    ):
        cursor = await origin(backend)

        async def foreign(writer: int) -> None:
            async with database.connect() as connection:
                for number in range(15):
                    await connection.execute("begin")
                    await connection.fetchval(INSERT, f"foreign-{writer}-{number}")
                    await asyncio.sleep(0.001 * ((writer + number) % 4))
                    await connection.execute("notify pomerium_record_change; commit")

        async def ours(replica: PostgresBackend, name: str) -> None:
            for number in range(15):
                await replica.put([struct("x", f"{name}-{number}")])

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(first(90, backend.changes(cursor)))
            for writer in range(4):
                group.create_task(foreign(writer))
            group.create_task(ours(backend, "one"))
            group.create_task(ours(other, "two"))

        versions = [change.version for change in reading.result()]
        assert versions == sorted(set(versions))
        assert len({change.id for change in reading.result()}) == 90


async def test_notifications_go_both_ways(postgres: Postgres) -> None:
    """D-31: time stands still, so it is the notification and nothing else that wakes."""
    async with (
        postgres.database() as database,
        open_postgres(database.url, ManualClock(), Health()) as backend,
        database.connect() as other,
    ):
        heard = asyncio.Event()
        await other.add_listener("pomerium_record_change", lambda *_: heard.set())
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(first(1, backend.changes(await end(backend))))
            await settle()
            await other.fetchval(INSERT, "theirs")
            await other.execute("notify pomerium_record_change")
        assert [change.id for change in reading.result()] == ["theirs"]

        heard.clear()
        await backend.put([session("ours")])
        async with asyncio.timeout(SOON):
            await heard.wait()


async def test_a_change_without_a_notification_is_found_by_looking(postgres: Postgres) -> None:
    """D-32, V2: as after a Put of the reference that fails half-way."""
    clock = ManualClock()
    async with (
        postgres.database() as database,
        open_postgres(database.url, clock, Health()) as backend,
        database.connect() as other,
        asyncio.TaskGroup() as group,
    ):
        reading = group.create_task(first(1, backend.changes(await end(backend))))
        await clock.until_sleeping()
        await other.fetchval(INSERT, "silent")
        await clock.advance(POLL)

        assert [change.id for change in await reading] == ["silent"]


async def test_a_change_while_nobody_listened_is_found_after_listening_again(postgres: Postgres) -> None:
    """D-32: every connection is cut, the listening one too, and the notification goes nowhere."""
    async with (
        postgres.database() as database,
        open_postgres(database.url, SystemClock(), Health()) as backend,
        database.connect() as other,
        asyncio.TaskGroup() as group,
    ):
        reading = group.create_task(keep_reading(backend, await end(backend), 1))
        await settle()
        cut = await other.fetchval(
            "select count(pg_terminate_backend(pid)) from pg_stat_activity "
            "where datname = current_database() and application_name = 'pomerium-agent'"
        )
        await other.fetchval(INSERT, "meanwhile")
        await other.execute("notify pomerium_record_change")

        assert cut >= 1
        assert [change.id for change in await reading] == ["meanwhile"]


async def test_another_replica_that_clears_the_database_is_noticed(postgres: Postgres) -> None:
    """V3: readers of all replicas start again, with the new identity."""
    async with (
        postgres.database() as database,
        open_postgres(database.url, ManualClock(), Health()) as backend,
        open_postgres(database.url, ManualClock(), Health()) as other,
    ):
        await backend.put([session("a")])
        cursor = await end(backend)

        async def read() -> None:
            with pytest.raises(CursorExpired):
                await first(1, backend.changes(cursor))

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            await settle()
            _, new = await other.clear()

        assert (await backend.server_info()).server_version == new
        assert (await backend.put([session("b")])).server_version == new


async def test_leases_go_by_the_clock_of_the_database(postgres: Postgres) -> None:
    """V7, D-20: a replica whose clock is hours ahead does not take a lease that another one holds."""
    ahead = ManualClock()
    ahead.jump(36_000)
    async with (
        postgres.database() as database,
        open_postgres(database.url, ManualClock(), Health()) as one,
        open_postgres(database.url, ahead, Health()) as two,
        database.connect() as other,
    ):
        ttl = timedelta(seconds=30)
        assert await one.lease("job", "one", ttl)
        assert not await two.lease("job", "two", ttl)

        await other.execute("update pomerium.leases set expires_at = now() - interval '1 second'")
        assert await two.lease("job", "two", ttl)
        assert not await one.lease("job", "one", ttl)


async def test_a_database_that_lost_its_last_changes_has_everybody_read_again(postgres: Postgres) -> None:
    """As after the promotion of a standby that had not heard of them: what readers saw is void."""
    async with (
        postgres.database() as database,
        open_postgres(database.url, ManualClock(), Health()) as backend,
        database.connect() as other,
    ):
        await backend.put([struct("x", "kept"), struct("x", "lost")])
        cursor = await end(backend)

        async def read() -> None:
            with pytest.raises(CursorExpired):
                await first(1, backend.changes(cursor))

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            await settle()
            await other.execute("delete from pomerium.record_changes where id = 'lost'")
            await other.execute("delete from pomerium.records where id = 'lost'; notify pomerium_record_change")

        copied, records = await backend.latest()
        assert (copied.record_version, [record.id for record in records]) == (1, ["kept"])
        await backend.put([struct("x", "next")])
        assert [change.id for change in await so_far(backend, copied)] == ["next"]


async def test_a_transaction_that_stays_open_is_named_in_the_log(postgres: Postgres) -> None:
    """Readers wait rather than miss a change; the operator hears for whom."""
    clock = ManualClock()
    async with (
        postgres.database() as database,
        open_postgres(database.url, clock, Health()) as backend,
        AsyncExitStack() as connections,
    ):
        forgotten, other = await two_writers(connections, database)
        await forgotten.execute("begin")
        await forgotten.fetchval(INSERT, "forgotten")
        await other.fetchval(INSERT, "later")
        await backend.server_info()
        clock.jump(PATIENCE + 1)
        with capture_logs() as logs:
            await backend.server_info()

        assert [log["log_level"] for log in logs] == ["warning"]
        assert logs[0]["since_seconds"] == PATIENCE + 1
        assert len(logs[0]["transactions"]) == 1
