"""Records in one SQLite file of this machine: they outlive the process, a crash, and a power cut."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import TypeVar

from pomerium_agent.databroker.backend import PAGE_SIZE, Found, Options, ServerInfo, Written
from pomerium_agent.databroker.filters import Expression, parse_filter
from pomerium_agent.databroker.options import check_options
from pomerium_agent.databroker.sqlite import reading
from pomerium_agent.databroker.sqlite.leases import Leases
from pomerium_agent.databroker.sqlite.opening import Opened, open_file
from pomerium_agent.databroker.sqlite.place import directory_of
from pomerium_agent.databroker.sqlite.reader import Reader
from pomerium_agent.databroker.sqlite.tail import Tail
from pomerium_agent.databroker.sqlite.transaction import Transaction
from pomerium_agent.databroker.sqlite.trouble import Trouble
from pomerium_agent.databroker.sqlite.writer import Committed, Writer
from pomerium_agent.errors import CursorExpired, DatabrokerUnavailable, InvalidRequest
from pomerium_agent.records import Cursor, Record
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Health

T = TypeVar("T")
RETENTION = timedelta(hours=1)
SLICE = 500  # records that are read or searched before others get their turn


async def open_sqlite(
    connection: str, clock: Clock, health: Health | None = None, environ: Mapping[str, str] | None = None
) -> "SqliteBackend":
    """Open the store that a `file://` connection names, or make it; `health` hears when it fails and recovers.

    Raises SettingsError for a file that is damaged, not ours or of a newer version, and DatabrokerUnavailable when
    another process owns it or the disk says no. Nothing that was there is overwritten.
    """
    directory = directory_of(connection, os.environ if environ is None else environ)
    opened = await open_file(directory)
    return SqliteBackend(opened, clock, health or Health())


class SqliteBackend:
    """A Backend (databroker 12). One thread writes, another reads, and the event loop waits for neither.

    This process is the only writer, so it knows the ends of the log without asking, and whoever follows the changes is
    woken by the commit and reads them from memory.
    """

    def __init__(self, opened: Opened, clock: Clock, health: Health) -> None:
        self.path = opened.path
        self.ownership = opened.ownership
        self._owner = opened.owner
        self._clock = clock
        self._head = opened.head
        self._tail = Tail()
        self._tail.begin(opened.head.latest)
        self._writer = Writer(opened.writing, opened.path, opened.head, self._committed)
        self._leases = Leases(opened.writing, clock)
        self._reader = Reader(opened.reading, opened.path)
        self._changed = asyncio.Event()
        self._closed = False
        self._trouble = Trouble(health)

    async def server_info(self) -> ServerInfo:
        self._check_open()
        return ServerInfo(self._head.server_version, self._head.earliest, self._head.latest)

    async def get(self, type: str, id: str) -> Record:
        return await self._read(lambda db: reading.get(db, type, id))

    async def put(self, records: Sequence[Record]) -> Written:
        return await self._write(lambda transaction: transaction.put(records, self._clock.now()))

    async def patch(self, records: Sequence[Record], fields: Sequence[str]) -> Written:
        return await self._write(lambda transaction: transaction.patch(records, fields, self._clock.now()))

    async def query(
        self, type: str, *, text: str = "", filter: Mapping[str, object] | None = None, offset: int = 0, limit: int
    ) -> Found:
        self._check_open()
        if offset < 0 or limit < 0:
            raise InvalidRequest(f"query: offset {offset} and limit {limit} must not be negative")
        head, expression = self._head, parse_filter(filter)
        if text:
            matches = await self._search(expression, type, text)
            page, count = matches[offset : offset + limit], len(matches)
        elif expression is None:
            page, count = await self._read(lambda db: reading.page_at(db, type, offset, limit))
        else:
            keys = await self._keys(expression, type)
            page, count = await self._records(keys[offset : offset + limit]), len(keys)
        return Found(tuple(page), count, head.server_version, head.latest)

    async def list_types(self) -> tuple[str, ...]:
        return await self._read(reading.types)

    async def get_options(self, type: str) -> Options | None:
        check_options(type, Options())
        return await self._read(lambda db: reading.options(db, type))

    async def set_options(self, type: str, options: Options) -> None:
        check_options(type, options)
        await self._change(lambda transaction: transaction.set_options(type, options))

    async def clear(self) -> tuple[int, int]:
        def clear(transaction: Transaction) -> tuple[int, int]:
            old = transaction.head.server_version
            transaction.clear()
            return old, transaction.head.server_version

        return await self._change(clear)

    async def lease(self, name: str, holder: str, ttl: timedelta) -> bool:
        return await self._change(lambda _: self._leases.take(name, holder, ttl))

    async def release(self, name: str, holder: str) -> None:
        await self._change(lambda _: self._leases.release(name, holder))

    async def latest(self, type: str = "") -> tuple[Cursor, tuple[Record, ...]]:
        self._check_open()
        cursor = Cursor(self._head.server_version, self._head.latest)
        records: list[Record] = []
        while True:
            after = (records[-1].type, records[-1].id) if records else None
            page = await self._read(partial(reading.page_after, type=type, after=after, limit=SLICE))
            records += page
            if len(page) < SLICE:
                return cursor, tuple(records)

    async def changes(self, after: Cursor, type: str = "", *, wait: bool = True) -> AsyncGenerator[Record, None]:
        version = after.record_version
        while True:
            self._check_readable(after.server_version, version)
            changed = self._changed
            if not self._tail.reaches(version):  # begun long ago: from the disk until it is up to date
                place = Cursor(after.server_version, version)
                page, version = await self._read(
                    partial(reading.changes_after, after=place, type=type, limit=PAGE_SIZE)
                )
                for change in page:
                    self._check_readable(after.server_version, change.version)
                    yield change
            elif (next_change := self._tail.next_after(version, type)) is not None:
                version = next_change.version
                yield next_change
            elif wait:
                # Whatever came until now was of other types; a clean-up of it must not end this reader.
                version = max(version, self._head.latest)
                await changed.wait()
            else:
                return

    async def checkpoint(self) -> Cursor:
        return await self._read(reading.checkpoint)

    async def set_checkpoint(self, checkpoint: Cursor) -> None:
        await self._change(lambda transaction: transaction.set_checkpoint(checkpoint))

    async def clean_up(self) -> None:
        now = self._clock.now()
        while not await self._change(lambda transaction: transaction.cut_log(now - RETENTION)):
            pass  # in pieces, between which others write
        while not await self._change(lambda transaction: transaction.expire(now)):
            pass
        await self._change(lambda _: self._leases.forget_expired())

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._wake()
        reader = self._reader.finish()

        def let_go() -> None:
            reader.result()
            self._owner.close()

        closing = asyncio.wrap_future(self._writer.finish(let_go))
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await closing  # it takes moments, and who opens the file next must find it free
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise DatabrokerUnavailable("the databroker was closed")

    def _check_readable(self, server_version: int, record_version: int) -> None:
        self._check_open()
        if server_version != self._head.server_version:
            raise CursorExpired("invalid server version: the records were cleared since, or are those of another store")
        if self._head.earliest and record_version < self._head.earliest - 1:
            raise CursorExpired(
                f"invalid record version: changes after {record_version} were cleaned up, "
                f"the log begins at {self._head.earliest}"
            )

    def _committed(self, committed: Committed) -> None:
        """On the event loop, after each commit and in its order."""
        if committed.head.server_version != self._head.server_version:
            # All that is in it from before a clear is gone; what came after begins with version 1.
            self._tail.begin(committed.head.latest)
        else:
            self._tail.extend(committed.changes)
        if committed.head != self._head:
            self._head = committed.head
            self._trouble.over("write")
            self._wake()

    def _wake(self) -> None:
        waiting, self._changed = self._changed, asyncio.Event()
        waiting.set()

    async def _read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        self._check_open()
        with self._trouble.reported("read"):
            found = await self._reader.run(job)
        self._trouble.over("read")
        return found

    async def _change(self, job: Callable[[Transaction], T]) -> T:
        self._check_open()
        with self._trouble.reported("write"):
            return await self._writer.run(job)

    async def _write(self, job: Callable[[Transaction], tuple[Record, ...]]) -> Written:
        def write(transaction: Transaction) -> Written:
            return Written(transaction.head.server_version, job(transaction))

        return await self._change(write)

    async def _keys(self, expression: Expression, type: str) -> list[reading.Key]:
        return sorted(await self._read(lambda db: reading.matching(db, expression, type)))

    async def _records(self, keys: Sequence[reading.Key]) -> list[Record]:
        found: list[Record] = []
        for start in range(0, len(keys), SLICE):
            found += await self._read(partial(reading.get_all, keys=keys[start : start + SLICE]))
        return found

    async def _search(self, expression: Expression | None, type: str, text: str) -> list[Record]:
        if expression is None:
            candidates: Sequence[Record] = (await self.latest(type))[1]
        else:
            candidates = await self._records(await self._keys(expression, type))
        found: list[Record] = []
        for start in range(0, len(candidates), SLICE):
            found += await self._read(partial(reading.holding, candidates[start : start + SLICE], text))
        return found
