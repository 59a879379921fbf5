"""Records in PostgreSQL, in the reference's schema, so that replicas of both kinds may share a database."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal

from pomerium_agent.databroker.backend import Found, Options, ServerInfo, Written
from pomerium_agent.databroker.options import check_options
from pomerium_agent.databroker.postgres.connection import parse_connection
from pomerium_agent.databroker.postgres.leases import release_lease, take_lease
from pomerium_agent.databroker.postgres.link import Link
from pomerium_agent.databroker.postgres.options import NO_OPTIONS, options_from_row, store_options
from pomerium_agent.databroker.postgres.read import Page, Reader
from pomerium_agent.databroker.postgres.tail import Tail
from pomerium_agent.databroker.postgres.watch import Watch
from pomerium_agent.databroker.postgres.write import Writer
from pomerium_agent.errors import CursorExpired, InvalidRequest
from pomerium_agent.records import Cursor, Record
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Health
from pomerium_agent.runtime.supervisor import supervise

FIRST_TRY_SECONDS = 15.0  # that opening waits for the database; after that it is open, and says that it is not there


class PostgresBackend:
    """A Backend (databroker 11). Open it with `open_postgres`."""

    def __init__(self, link: Link, tail: Tail, watch: Watch, clock: Clock) -> None:
        self._link = link
        self._tail = tail
        self._watch = watch
        self._reader = Reader(link, tail)
        self._writer = Writer(link, clock)

    async def server_info(self) -> ServerInfo:
        self._tail.check()
        server_version, earliest, version = await self._reader.horizon()
        return ServerInfo(server_version, earliest, version)

    async def get(self, type: str, id: str) -> Record:
        self._tail.check()
        return await self._reader.get(type, id)

    async def put(self, records: Sequence[Record]) -> Written:
        self._tail.check()
        written = await self._writer.put(records)
        self._watch.poke()
        return written

    async def patch(self, records: Sequence[Record], fields: Sequence[str]) -> Written:
        self._tail.check()
        written = await self._writer.patch(records, fields)
        self._watch.poke()
        return written

    async def query(
        self, type: str, *, text: str = "", filter: Mapping[str, object] | None = None, offset: int = 0, limit: int
    ) -> Found:
        self._tail.check()
        return await self._reader.query(type, text, filter, offset, limit)

    async def list_types(self) -> tuple[str, ...]:
        self._tail.check()
        async with self._link.session() as connection:
            rows = await connection.fetch("select distinct type from pomerium.records")
        return tuple(sorted(row["type"] for row in rows))

    async def get_options(self, type: str) -> Options | None:
        self._tail.check()
        check_options(type, NO_OPTIONS)
        if "\0" in type:
            return None
        async with self._link.session() as connection:
            row = await connection.fetchrow(
                "select capacity, fields, ttl from pomerium.record_options where type = $1", type
            )
        return None if row is None else options_from_row(row)

    async def set_options(self, type: str, options: Options) -> None:
        self._tail.check()
        check_options(type, options)
        if any("\0" in text for text in (type, *options.indexable_fields)):
            raise InvalidRequest("options with the character U+0000 cannot be stored")
        async with self._link.session() as connection:
            await store_options(connection, type, options)

    async def clear(self) -> tuple[int, int]:
        self._tail.check()
        cleared = await self._writer.clear()
        await self._reader.horizon()  # so that readers of this process learn of it before the answer does
        return cleared

    async def lease(self, name: str, holder: str, ttl: timedelta) -> bool:
        self._tail.check()
        return await take_lease(self._link, name, holder, ttl)

    async def release(self, name: str, holder: str) -> None:
        self._tail.check()
        await release_lease(self._link, name, holder)

    async def latest(self, type: str = "") -> tuple[Cursor, tuple[Record, ...]]:
        self._tail.check()
        return await self._reader.latest(type)

    async def changes(self, after: Cursor, type: str = "", *, wait: bool = True) -> AsyncGenerator[Record, None]:
        version, life = after.record_version, self._tail.life
        while True:
            self._tail.check()
            changed = self._tail.changed
            horizon = (await self._reader.horizon()).version
            self._tail.check_same(after, life)
            page = await self._reader.page(version, horizon, type)
            _check_readable(page, after.server_version, version, horizon)
            for change in page.changes:
                self._tail.check()
                self._tail.check_same(after, life)
                version = change.version
                yield change
            if page.changes:
                continue
            if not wait:
                return
            # Whatever came until now was of other types; a clean-up of it must not end this reader.
            version = max(version, horizon)
            await changed.wait()

    async def checkpoint(self) -> Cursor:
        self._tail.check()
        async with self._link.session() as connection:
            row = await connection.fetchrow("select server_version, record_version from pomerium.checkpoints limit 1")
        return Cursor(0, 0) if row is None else Cursor(int(row["server_version"]), int(row["record_version"]))

    async def set_checkpoint(self, checkpoint: Cursor) -> None:
        self._tail.check()
        async with self._link.session() as connection:
            await connection.execute(
                "update pomerium.checkpoints set server_version = $1, record_version = $2",
                Decimal(checkpoint.server_version),
                Decimal(checkpoint.record_version),
            )

    async def clean_up(self) -> None:
        self._tail.check()
        await self._writer.clean_up()
        self._watch.poke()

    async def close(self) -> None:
        self._tail.closed = True
        self._tail.wake()
        await self._link.close()


def _check_readable(page: Page, server_version: int, record_version: int, horizon: int) -> None:
    if page.server_version != server_version:
        raise CursorExpired("invalid server version: the records were cleared since, or are those of another store")
    # What lies beyond the horizon may begin with a hole that is filled later, so its beginning says nothing yet.
    if page.earliest and record_version < min(page.earliest, horizon + 1) - 1:
        raise CursorExpired(
            f"invalid record version: changes after {record_version} were cleaned up, the log begins at {page.earliest}"
        )


@asynccontextmanager
async def open_postgres(connection: str, clock: Clock, health: Health) -> AsyncIterator[PostgresBackend]:
    """Open the database behind a connection string; migrates it, and keeps listening until the block ends.

    Raises SettingsError for a string that cannot be read. A database that is not there yet is no error: everything
    raises DatabrokerUnavailable until it is, `health` says why, and it is tried for ever.
    """
    target = parse_connection(connection)
    link, tail = Link(target), Tail(clock)
    watch = Watch(link, tail, clock, health)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(supervise("database", watch.run, clock=clock, backoff=watch.backoff))
        backend = PostgresBackend(link, tail, watch, clock)
        try:
            async with asyncio.timeout(FIRST_TRY_SECONDS):
                await watch.tried.wait()
        except TimeoutError:
            pass
        try:
            yield backend
        finally:
            watching.cancel()
            await backend.close()
