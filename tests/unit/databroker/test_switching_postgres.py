"""Changing to a database and away from it while all goes on (Z-25), and what the health check says meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pomerium_agent.databroker import Databroker, Options, open_databroker
from pomerium_agent.databroker.bundle_entry import CACHE_ENTRY_TYPE, CacheEntry, entry_to_record
from pomerium_agent.databroker.sqlite.place import FILE
from pomerium_agent.errors import DatabrokerUnavailable
from pomerium_agent.records import Cursor
from pomerium_agent.runtime.clock import Clock, SystemClock
from pomerium_agent.runtime.health import Check, Health, Report, Status
from pomerium_agent.runtime.latest import Latest
from tests.contract.stores import SESSION, current_ids, session, struct, user
from tests.fakes.clock import ManualClock, settle
from tests.fakes.postgres import Database, Postgres

CONFIG = "type.googleapis.com/pomerium.config.Config"
PATIENCE = 10.0


class Said(Health):
    """A Health that remembers all that was said of the storage."""

    def __init__(self) -> None:
        super().__init__()
        self.storage: list[Report] = []

    def _put(self, report: Report) -> None:
        if report.check == Check.STORAGE and self.reports.get(report.check) != report:
            self.storage.append(report)
        super()._put(report)

    @property
    def now(self) -> Report:
        return self.reports[Check.STORAGE]


@dataclass(frozen=True, slots=True)
class House:
    databroker: Databroker
    storage: Latest[str | None]
    health: Said

    async def change(self, connection: str | None, kind: str) -> None:
        """Ask for another store, and return once it has taken over and said so."""
        before = self.databroker.store
        self.storage.set(connection)
        async with asyncio.timeout(PATIENCE):
            async for _ in self.databroker.stores.follow():
                if self.databroker.store is not before:
                    break
            async for report in self.health.follow():
                if report.check == Check.STORAGE and report.healthy and report.attributes["backend"] == kind:
                    return

    async def until_said(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE):
            async for report in self.health.follow():
                if report.check == Check.STORAGE and text in report.error:
                    return


@asynccontextmanager
async def house(connection: str | None = None, clock: Clock | None = None) -> AsyncIterator[House]:
    storage, health = Latest(connection), Said()
    async with open_databroker(storage, clock or SystemClock(), health) as databroker:
        yield House(databroker, storage, health)


@dataclass(slots=True)
class Hole:
    """A server that takes connections and never answers."""

    url: str = ""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reached.set()
        try:
            while await reader.read(4096):
                pass
        except OSError:
            pass  # reset: that is leaving, too
        finally:
            writer.transport.abort()
            self.left.set()


@asynccontextmanager
async def open_hole() -> AsyncIterator[Hole]:
    hole = Hole()
    server = await asyncio.start_server(hole.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    hole.url = f"postgres://somebody@127.0.0.1:{port}/records?sslmode=disable&connect_timeout=60"
    async with server:
        yield hole


async def count_connections(database: Database) -> int:
    async with database.connect() as connection:
        return int(
            await connection.fetchval(
                "select count(*) from pg_stat_activity where datname = $1 and application_name = 'pomerium-agent'",
                database.name,
            )
        )


async def until_let_go(database: Database) -> None:
    async with asyncio.timeout(PATIENCE):
        while await count_connections(database):  # noqa: ASYNC110  # the server sees it in its own time, and tells nobody
            await asyncio.sleep(0.05)


async def test_from_memory_to_a_database_a_file_and_another_database(postgres: Postgres, tmp_path: Path) -> None:
    """Sessions, configuration and options come along; each store that is left is let go of, and says no more."""
    async with postgres.database() as first, postgres.database() as second, house() as at:
        entry = entry_to_record("config", CacheEntry(etag='"config"', record_types=(CONFIG,)))
        await at.databroker.put([session("ada", "u1"), user("u1"), struct(CONFIG, "c"), entry])
        await at.databroker.set_options(SESSION, Options(capacity=1000))
        data = {(r.type, r.id): r.data for r in (await at.databroker.latest())[1]}
        assert {type for type, _ in data} >= {SESSION, CONFIG, CACHE_ENTRY_TYPE}

        for connection, kind in ((first.url, "postgres"), (f"file://{tmp_path}", "file"), (second.url, "postgres")):
            await at.change(connection, kind)

            assert {(r.type, r.id): r.data for r in (await at.databroker.latest())[1]} == data
            assert await at.databroker.get_options(SESSION) == Options(capacity=1000)
            assert at.health.now.attributes == {"backend": kind}

        await until_let_go(first)
        await at.databroker.put([session("grace")])
        async with first.connect() as raw:
            assert await raw.fetchval("select count(*) from pomerium.records where id = 'grace'") == 0
        assert [report.attributes["backend"] for report in at.health.storage if report.healthy] == [
            "memory",
            *("postgres", "file", "postgres"),
        ]


async def test_no_write_is_lost_on_the_way_into_a_database_and_out_of_it(postgres: Postgres, tmp_path: Path) -> None:
    """Each of three writers goes on all the while; what was confirmed is there at the end, and nothing else."""
    written: dict[str, str] = {}
    stop = asyncio.Event()

    async def write(databroker: Databroker, name: str) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            id = f"{name}-{number % 20}"
            await databroker.put([session(id, f"user-{number}")])
            written[id] = f"user-{number}"
            await asyncio.sleep(0)

    async with postgres.database() as database:
        async with house() as at, asyncio.TaskGroup() as group:
            for name in ("a", "b", "c"):
                group.create_task(write(at.databroker, name))
            await at.change(database.url, "postgres")
            await at.change(f"file://{tmp_path}", "file")
            await at.change(database.url, "postgres")
            stop.set()

        async with house(database.url) as at:
            _, records = await at.databroker.latest(SESSION)
            expected = {id: session(id, user).data for id, user in written.items()}
            assert {record.id: record.data for record in records} == expected


async def test_a_new_string_for_the_same_database_copies_nothing(postgres: Postgres) -> None:
    """As with a new password or address: the same data set goes on, and its log has nothing new."""
    async with postgres.database() as database, house(database.url) as at:
        await at.databroker.put([session("ada")])
        info = await at.databroker.server_info()

        await at.change(f"{database.url}?pool_max_conns=4", "postgres")

        assert await at.databroker.server_info() == info
        assert await current_ids(at.databroker) == ["ada"]


async def test_a_database_out_of_reach_leaves_the_old_store_in_place(postgres: Postgres) -> None:
    """What it says of itself meanwhile is not what is said of the storage; once it is there, it takes over."""
    async with postgres.database() as database, house() as at:
        before = at.databroker.store
        await at.databroker.put([session("ada")])
        at.storage.set(database.url.replace(f"/{database.name}", "/not_there"))
        await at.until_said("records stay in memory storage")

        assert 'database "not_there" does not exist' in at.health.now.error
        assert at.health.now.attributes == {"backend": "memory"}
        assert at.databroker.store is before
        await at.databroker.put([session("grace")])

        await at.change(database.url, "postgres")
        assert await current_ids(at.databroker) == ["ada", "grace"]
        assert {report.attributes["backend"] for report in at.health.storage if report.error} == {"memory"}


async def test_a_change_to_a_database_that_is_taken_back_is_over_at_once() -> None:
    """Nobody goes on trying to reach it, and it says nothing about a storage that it never was."""
    async with open_hole() as hole, house() as at:
        at.storage.set(hole.url)
        async with asyncio.timeout(PATIENCE):
            await hole.reached.wait()
            at.storage.set(None)
            await hole.left.wait()
        await settle()

        assert at.health.now.healthy
        assert at.health.now.attributes == {"backend": "memory"}
        assert not any(report.error for report in at.health.storage)


async def test_stopping_does_not_wait_for_a_database_that_does_not_answer() -> None:
    async with open_hole() as hole, asyncio.timeout(PATIENCE):
        async with house() as at:
            at.storage.set(hole.url)
            await hole.reached.wait()
        await hole.left.wait()

    assert at.health.now.status is Status.TERMINATING


async def test_stopping_lets_go_of_the_database_and_tells_who_reads(postgres: Postgres) -> None:
    async with postgres.database() as database, asyncio.TaskGroup() as group:

        async def read(databroker: Databroker, cursor: Cursor) -> None:
            with pytest.raises(DatabrokerUnavailable, match="closed"):
                async with aclosing(databroker.changes(cursor)) as changes:
                    await anext(changes)

        async with asyncio.timeout(PATIENCE):
            async with house(database.url) as at:
                assert await count_connections(database)
                group.create_task(read(at.databroker, (await at.databroker.server_info()).cursor))
                await settle()
            await until_let_go(database)

        assert at.health.now.status is Status.TERMINATING


async def test_a_change_that_fails_stays_told_while_the_database_is_well(postgres: Postgres, tmp_path: Path) -> None:
    """The clock stands still, so nobody tries again: the database alone speaks, and must not say that all is well."""
    (tmp_path / FILE).write_bytes(b"not a database" * 100)
    async with postgres.database() as database, house(database.url, ManualClock()) as at:
        at.storage.set(f"file://{tmp_path}")
        await at.until_said("records stay in postgres storage")

        cursor = (await at.databroker.server_info()).cursor
        await at.databroker.put([session("ada")])
        async with asyncio.timeout(PATIENCE), aclosing(at.databroker.changes(cursor)) as changes:
            assert (await anext(changes)).id == "ada"  # so it has looked, and was well
        await settle()
        assert "records stay in postgres storage" in at.health.now.error

        at.storage.set(database.url)
        await settle()
        assert at.health.now.healthy


async def test_a_database_out_of_reach_at_the_start_is_not_called_running(free_port: Callable[[], int]) -> None:
    """Z-65: with the clock at rest only the first try was made, and what came of it stands."""
    url = f"postgres://somebody@127.0.0.1:{free_port()}/records?sslmode=disable"
    async with asyncio.timeout(PATIENCE), house(url, ManualClock()) as at:
        await settle(100)

        assert "cannot be reached" in at.health.now.error
        assert not any(report.healthy for report in at.health.storage)
