"""Taking along what a store holds when another one takes over (Z-25): sessions survive, and nobody loses a route.

Two rules, since there are two kinds of records:

- What bundles own is taken as a whole or not at all. A data set that has a bundle (its cache entry says so) keeps
  what it has: somebody brings it up to date there. One that has none gets an exact copy, entries last, so that there
  is no moment without configuration; this happens under the lease of whoever brings bundles in.
- Everything else is taken record by record, and the newer one wins: what the other store has, and was changed there
  later, stays. Deletions that the log still knows count as changes, so nobody comes back who signed out here.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from datetime import datetime, timedelta
from uuid import uuid4

import structlog

from pomerium_agent.databroker.backend import Backend, Options
from pomerium_agent.databroker.bundle_entry import BUNDLE_LEASE, CACHE_ENTRY_TYPE, entry_from_record
from pomerium_agent.errors import CursorExpired, DatabrokerUnavailable, RecordNotFound, Retryable
from pomerium_agent.records import Cursor, Record
from pomerium_agent.runtime.clock import Clock

log = structlog.get_logger(__name__)

BATCH_RECORDS = 200
BATCH_BYTES = 1024 * 1024  # (D-12)
LEASE_TTL = timedelta(seconds=30)
LOOK_AGAIN = 1.0  # seconds between looks whether another replica has brought the configuration in
ENOUGH = 100  # records that may be left for the moment in which nobody can write
ROUNDS = 20  # after which that moment comes anyway: writers may be faster than what we write to

Key = tuple[str, str]


class OldStoreGone(Retryable):
    """What we come from cannot be read."""


class Carrier:
    """Copies from `old` to `new`, and then what changed meanwhile, for as long as it is asked to."""

    def __init__(self, old: Backend, new: Backend, clock: Clock) -> None:
        self._old = old
        self._new = new
        self._clock = clock
        self._cursor = Cursor(0, 0)
        self._left_alone: frozenset[str] = frozenset()  # types that the new data set has of its own
        self._ours: dict[Key, int] = {}  # versions of what we wrote there
        self._carried = 0

    async def needed(self) -> bool:
        """Whether the two are different data sets; a new address or password of the same database needs no copy."""
        with _from_old():
            here = await self._old.server_info()
        return here.server_version != (await self._new.server_info()).server_version

    async def copy(self) -> None:
        """Everything, and then the changes until few are left, or there is no getting there."""
        await self._copy_all()
        for _ in range(ROUNDS):
            if await self.catch_up() <= ENOUGH:
                break
        log.info("records taken along", records=self._carried)

    async def catch_up(self) -> int:
        """What changed since; returns how many records that were, however often each was written."""
        try:
            changes = await self._changes(self._cursor)
        except CursorExpired:  # cleared, or so long ago that the log forgot
            await self._copy_all()
            return ENOUGH + 1
        newest = {(change.type, change.id): change for change in changes}
        for type in sorted({type for type, _ in newest}):
            await self._take(type, [change for change in newest.values() if change.type == type])
        if changes:
            self._cursor = Cursor(self._cursor.server_version, changes[-1].version)
        return len(newest)

    async def _copy_all(self) -> None:
        with _from_old():
            info = await self._old.server_info()
            self._cursor, records = await self._old.latest()
        by_type: dict[str, list[Record]] = {}
        for record in records:
            by_type.setdefault(record.type, []).append(record)
        bundled = await self._copy_bundles(by_type)
        for type in sorted(by_type.keys() - bundled):
            await self._copy_options(type)
            await self._take(type, by_type[type])
        await self._take_deletions(Cursor(info.server_version, max(0, info.earliest_record_version - 1)))

    async def _changes(self, after: Cursor) -> list[Record]:
        with _from_old():
            async with aclosing(self._old.changes(after, wait=False)) as changes:
                return [change async for change in changes]

    # --- what bundles own ----------------------------------------------------------------------

    async def _copy_bundles(self, by_type: dict[str, list[Record]]) -> frozenset[str]:
        """Returns the types that need nothing more."""
        entries = by_type.get(CACHE_ENTRY_TYPE, [])
        owned = {type for record in entries if (entry := entry_from_record(record)) for type in entry.record_types}
        bundled = frozenset((*owned, CACHE_ENTRY_TYPE))
        self._left_alone = frozenset()
        holder, waiting = str(uuid4()), False
        while not await self._has_bundles():
            if not entries:
                return bundled  # there is nothing to take, here or there
            if not await self._new.lease(BUNDLE_LEASE, holder, LEASE_TTL):
                if not waiting:
                    log.info("another replica brings the configuration into the new storage, waiting for it")
                    waiting = True
                await self._clock.sleep(LOOK_AGAIN)
                continue
            try:
                if not await self._has_bundles():
                    for type in (*sorted(owned), CACHE_ENTRY_TYPE):
                        await self._copy_exactly(type, by_type.get(type, []), holder)
                    return bundled
            finally:
                await self._new.release(BUNDLE_LEASE, holder)
        # Types of our bundles and of those there: whatever the list says now is known there, or soon will be.
        theirs = {
            type
            for record in (await self._new.latest(CACHE_ENTRY_TYPE))[1]
            if (entry := entry_from_record(record))
            for type in entry.record_types
        }
        self._left_alone = bundled | theirs
        return self._left_alone

    async def _has_bundles(self) -> bool:
        _, records = await self._new.latest(CACHE_ENTRY_TYPE)
        return any(entry_from_record(record) is not None for record in records)

    async def _copy_exactly(self, type: str, records: Iterable[Record], holder: str) -> None:
        """A bundle owns every record of its types, so what is there and not here goes."""
        wanted = {record.id: record for record in records}
        there = {record.id: record for record in (await self._new.latest(type))[1]}
        now = self._clock.now()
        writes = [record for id, record in wanted.items() if id not in there or there[id].data != record.data]
        for batch in _batches((*writes, *(there[id].as_deleted(now) for id in there.keys() - wanted.keys()))):
            await self._put(batch)
            await self._new.lease(BUNDLE_LEASE, holder, LEASE_TTL)

    # --- everything else -----------------------------------------------------------------------

    async def _copy_options(self, type: str) -> None:
        with _from_old():
            options = await self._old.get_options(type)
        if options not in (None, Options()) and await self._new.get_options(type) is None:
            await self._new.set_options(type, options or Options())

    async def _take_deletions(self, begin: Cursor) -> None:
        """Of records that the new store may still have from an earlier time."""
        try:
            changes = await self._changes(begin)
        except CursorExpired:
            log.info("the log of the old storage was cut meanwhile")
            return
        newest = {(c.type, c.id): c for c in changes if c.version <= self._cursor.record_version}
        deleted = [change for change in newest.values() if change.deleted]
        for type in sorted({change.type for change in deleted}):
            await self._take(type, [change for change in deleted if change.type == type])

    async def _take(self, type: str, records: Sequence[Record]) -> None:
        """The ones that are newer here than there."""
        if type in self._left_alone:
            return
        there = await self._there(type, records)
        for batch in _batches(record for record in records if self._wins(record, there.get(record.id))):
            await self._put(batch)

    async def _there(self, type: str, records: Sequence[Record]) -> dict[str, Record]:
        """What the new store has of these; few are asked for one by one, since writers may be waiting."""
        if len(records) > ENOUGH:
            return {record.id: record for record in (await self._new.latest(type))[1]}
        found = {}
        for record in records:
            with suppress(RecordNotFound):
                found[record.id] = await self._new.get(type, record.id)
        return found

    def _wins(self, record: Record, there: Record | None) -> bool:
        if there is None:
            return True  # a deletion too: the log over there then knows it, should the records move on from there
        if record.data == there.data and not record.deleted:
            return False
        return self._ours.get((there.type, there.id)) == there.version or _time(record) >= _time(there)

    async def _put(self, batch: tuple[Record, ...]) -> None:
        for written in (await self._new.put(batch)).records:
            self._ours[(written.type, written.id)] = written.version
        self._carried += len(batch)


@contextmanager
def _from_old() -> Iterator[None]:
    """Tell the troubles of the two stores apart."""
    try:
        yield
    except DatabrokerUnavailable as error:
        raise OldStoreGone(f"the old storage cannot be read: {error}") from error


def _batches(records: Iterable[Record]) -> Iterator[tuple[Record, ...]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        added = len(record.data.value) if record.data is not None else 0
        if batch and (len(batch) == BATCH_RECORDS or size + added > BATCH_BYTES):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(record)
        size += added
    if batch:
        yield tuple(batch)


def _time(record: Record) -> datetime:
    time = record.deleted_at or record.modified_at
    if time is None:
        raise ValueError(f"{record.type} {record.id} has no time")
    return time
