"""Records in one SQLite file of this machine: they outlive the process, a crash, and a power cut."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

from pomerium_agent.databroker.backend import PAGE_SIZE, Found, Options, ServerInfo, Written
from pomerium_agent.databroker.filters import Expression, parse_filter
from pomerium_agent.databroker.options import check_options
from pomerium_agent.databroker.sqlite import reading
from pomerium_agent.databroker.sqlite.leases import Leases
from pomerium_agent.databroker.sqlite.place import directory_of, owned
from pomerium_agent.databroker.sqlite.schema import connect, open_checked
from pomerium_agent.databroker.sqlite.tail import Tail
from pomerium_agent.databroker.sqlite.transaction import Head, Transaction, read_head
from pomerium_agent.databroker.sqlite.words import in_plain_words
from pomerium_agent.databroker.sqlite.writer import Committed, Writer
from pomerium_agent.databroker.textsearch import contains_text
from pomerium_agent.errors import CursorExpired, DatabrokerUnavailable, InvalidRequest
from pomerium_agent.records import Cursor, Record
from pomerium_agent.runtime.clock import Clock

T = TypeVar("T")
RETENTION = timedelta(hours=1)
SLICE = 500  # records that are read or searched before others get their turn


@dataclass(frozen=True, slots=True)
class _Opened:
    """The file, owned: let go of it by closing `owner`."""

    path: Path
    owner: ExitStack
    writing: sqlite3.Connection
    reading: sqlite3.Connection
    head: Head


async def open_sqlite(connection: str, clock: Clock, environ: Mapping[str, str] | None = None) -> "SqliteBackend":
    """Open the store that a `file://` connection names, or make it.

    Raises SettingsError for a file that is damaged, not ours or of a newer version, and DatabrokerUnavailable when
    another process owns it or the disk says no. Nothing that was there is overwritten.
    """
    directory = directory_of(connection, os.environ if environ is None else environ)
    opening = asyncio.get_running_loop().run_in_executor(None, _open, directory)
    try:
        opened = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_let_go)
        raise
    return SqliteBackend(opened, clock)


def _open(directory: Path) -> _Opened:
    with ExitStack() as owner:
        path = owner.enter_context(owned(directory))
        with in_plain_words(path):
            writing = open_checked(path)
            owner.callback(writing.close)
            writing.execute("BEGIN IMMEDIATE")
            Transaction(writing, read_head(writing)).set_built_in_options()
            writing.execute("COMMIT")
            reader = connect(path)
            owner.callback(reader.close)
            return _Opened(path, owner.pop_all(), writing, reader, read_head(writing))


def _let_go(opening: "asyncio.Future[_Opened]") -> None:
    """Nobody waits for it any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().owner.close()


class SqliteBackend:
    """A Backend (databroker 12). One thread writes, another reads, and the event loop waits for neither.

    This process is the only writer, so it knows the ends of the log without asking, and whoever follows the changes is
    woken by the commit and reads them from memory.
    """

    def __init__(self, opened: _Opened, clock: Clock) -> None:
        self.path = opened.path
        self._owner = opened.owner
        self._clock = clock
        self._head = opened.head
        self._tail = Tail()
        self._tail.begin(opened.head.latest)
        self._writer = Writer(opened.writing, opened.path, opened.head, self._committed)
        self._leases = Leases(opened.writing, clock)
        self._connection = opened.reading
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="databroker-read")
        self._changed = asyncio.Event()
        self._closed = False

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
        await asyncio.get_running_loop().run_in_executor(self._reader, self._connection.close)
        self._reader.shutdown(wait=False)
        await self._writer.close()
        self._owner.close()

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
            self._wake()

    def _wake(self) -> None:
        waiting, self._changed = self._changed, asyncio.Event()
        waiting.set()

    async def _read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._in_snapshot, job)

    def _in_snapshot(self, job: Callable[[sqlite3.Connection], T]) -> T:
        with in_plain_words(self.path):
            self._connection.execute("BEGIN")
            try:
                return job(self._connection)
            finally:
                self._connection.execute("ROLLBACK")

    async def _change(self, job: Callable[[Transaction], T]) -> T:
        self._check_open()
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
            part = keys[start : start + SLICE]
            found += await self._read(partial(reading.get_all, keys=part))
        return found

    async def _search(self, expression: Expression | None, type: str, text: str) -> list[Record]:
        if expression is None:
            candidates: Sequence[Record] = (await self.latest(type))[1]
        else:
            candidates = await self._records(await self._keys(expression, type))
        found: list[Record] = []
        for start in range(0, len(candidates), SLICE):
            part = candidates[start : start + SLICE]
            found += await self._read(partial(_holding, part, text))
        return found


def _holding(records: Sequence[Record], text: str, _: sqlite3.Connection) -> list[Record]:
    return [record for record in records if contains_text(record.data, text)]
