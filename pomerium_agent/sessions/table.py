"""One type of records as this replica knows it: decoded rows, and how far the change log was read."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Generic, TypeVar

import structlog

from pomerium_agent.databroker.follow import Reset, Updated
from pomerium_agent.records import Cursor, Record
from pomerium_agent.sessions.entries import Entry

log = structlog.get_logger(__name__)

E = TypeVar("E", bound=Entry)
SLICE = 200  # records that are decoded before others get their turn; some milliseconds


class Generations:
    """Counts the changes that mattered, over all tables of one copy."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        """A number that nothing before had."""
        self.last += 1
        return self.last


class Table(Generic[E]):
    """The rows of one type, by record id.

    An entry carries the generation in which it took its present value: a new value gets a new number, the same
    value written again keeps the old one. `cursor` is None until the first copy was delivered; everything up to it
    has been taken in. `reachable` is whether the store answered when it was last asked. `lent` are rows that did not
    come from the store, and count only where it has none.
    """

    def __init__(self, type: str, decode: Callable[[Record], E | None], generations: Generations) -> None:
        self.type = type
        self.rows: dict[str, E] = {}
        self.lent: dict[str, E] = {}
        self.cursor: Cursor | None = None
        self.reachable = False
        self._decode = decode
        self._generations = generations

    def find(self, id: str) -> E | None:
        """The row of that id."""
        found = self.rows.get(id)
        return found if found is not None else self.lent.get(id)

    def lend(self, record: Record) -> None:
        """Count this record where the store has none of its id, until it is taken back."""
        entry = self._read(record)
        if entry is not None:
            self.lent[record.id] = self._numbered(entry, self.lent.get(record.id))

    def take_back(self) -> None:
        """Forget whatever was lent."""
        if self.lent:
            self.lent = {}
            self._generations.next()

    async def reset(self, change: Reset) -> None:
        """Take in a complete new copy, all at once; making it ready lets others run in between (V13).

        What is learned past the log meanwhile is lost, so whoever learned something looks again after a reset.
        """
        rows: dict[str, E] = {}
        for number, record in enumerate(change.records, 1):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            entry = self._read(record)
            if entry is not None:
                rows[record.id] = self._numbered(entry, self.rows.get(record.id))
        self.rows = rows
        self.cursor = change.cursor
        self._generations.next()

    def update(self, change: Updated) -> None:
        """Take in one change of the log."""
        self._put(change.record)
        self.cursor = change.cursor

    def learn(self, record: Record) -> None:
        """Take in a record that was read past the log, unless the log has told of it, or of its end, already."""
        if self.cursor is not None and record.version > self.cursor.record_version:
            self._put(record)

    def _put(self, record: Record) -> None:
        before = self.rows.get(record.id)
        if before is not None and record.version < before.version:
            return  # the log is behind what was learned past it
        entry = None if record.deleted else self._read(record)
        if entry is not None:
            self.rows[record.id] = self._numbered(entry, before)
        elif before is not None:
            del self.rows[record.id]
            self._generations.next()

    def _numbered(self, entry: E, before: E | None) -> E:
        """The entry with its generation; one that is equal to the one before takes over its number and its contents."""
        if before != entry or before is None:
            return replace(entry, generation=self._generations.next())
        return before if before.version == entry.version else replace(before, version=entry.version)

    def _read(self, record: Record) -> E | None:
        entry = self._decode(record)
        if entry is None:
            log.warning("record cannot be read", type=self.type, id=record.id, version=record.version)
        return entry


def caught_up(tables: Iterable[Table[Entry]]) -> Cursor | None:
    """The place up to which all tables know everything; None while they do not belong to one data set."""
    cursors = [table.cursor for table in tables]
    if None in cursors:
        return None
    known = [cursor for cursor in cursors if cursor is not None]
    if len({cursor.server_version for cursor in known}) != 1:
        return None
    return min(known, key=lambda cursor: cursor.record_version)
