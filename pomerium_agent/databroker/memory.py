"""Records in this process's memory: complete, quick, and gone when the process ends."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from pomerium_agent.databroker.backend import Found, Options, ServerInfo, Written
from pomerium_agent.databroker.changelog import ChangeLog
from pomerium_agent.databroker.filters import And, Equals, Expression, Not, Or, parse_filter
from pomerium_agent.databroker.options import BUILT_IN_OPTIONS, check_options
from pomerium_agent.databroker.patch import patch_payload
from pomerium_agent.databroker.table import Table
from pomerium_agent.databroker.textsearch import contains_text
from pomerium_agent.errors import CursorExpired, DatabrokerUnavailable, InvalidRequest, RecordNotFound, Unsupported
from pomerium_agent.records import Cursor, Record
from pomerium_agent.runtime.clock import Clock

RETENTION = timedelta(hours=1)
SEARCH_SLICE = 500  # records whose text is searched before others get their turn
NO_OPTIONS = Options()
NO_CHECKPOINT = Cursor(0, 0)

Key = tuple[str, str]  # type and id


class MemoryBackend:
    """A Backend (databroker 12). Everything between two awaits is one transaction, so no reader sees half a write.

    Waiting readers are woken by the write itself. `clean_up` must be called from time to time; see `run_cleanup`.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._server_version = _new_server_version()
        self._tables: dict[str, Table] = {}
        self._log = ChangeLog()
        self._options: dict[str, Options] = dict(BUILT_IN_OPTIONS)
        self._leases: dict[str, tuple[str, float]] = {}  # name: holder and monotonic hour of expiry
        self._checkpoint = NO_CHECKPOINT
        self._changed = asyncio.Event()
        self._closed = False

    async def server_info(self) -> ServerInfo:
        self._check_open()
        return ServerInfo(self._server_version, self._log.earliest, self._log.latest)

    async def get(self, type: str, id: str) -> Record:
        self._check_open()
        record = self._find((type, id))
        if record is None:
            raise RecordNotFound(f"there is no record {id!r} of type {type!r}")
        return record

    async def put(self, records: Sequence[Record]) -> Written:
        await self._turn()
        now = self._clock.now()
        stored = tuple(self._write(record, now) for record in records)
        self._enforce_capacity((record.type for record in records), now)
        self._wake()
        return Written(self._server_version, stored)

    async def patch(self, records: Sequence[Record], fields: Sequence[str]) -> Written:
        await self._turn()
        patched: dict[Key, Record] = {}
        in_order: list[Record] = []
        for record in records:  # all of them before any is written: a bad one changes nothing
            key = (record.type, record.id)
            current = patched.get(key) or self._find(key)
            if current is not None:
                patched[key] = replace(current, data=patch_payload(current.data, record.data, fields))
                in_order.append(patched[key])
        now = self._clock.now()
        stored = tuple(self._write(record, now) for record in in_order)
        self._enforce_capacity((record.type for record in stored), now)
        self._wake()
        return Written(self._server_version, stored)

    async def query(
        self, type: str, *, text: str = "", filter: Mapping[str, object] | None = None, offset: int = 0, limit: int
    ) -> Found:
        self._check_open()
        if offset < 0 or limit < 0:
            raise InvalidRequest(f"query: offset {offset} and limit {limit} must not be negative")
        server_version, record_version = self._server_version, self._log.latest
        expression = parse_filter(filter)
        keys = self._all_keys(type) if expression is None else self._matching(expression, type)
        found = [self._tables[type].get(id) for type, id in sorted(keys)]
        matches = [record for record in found if record is not None]
        if text:
            matches = await self._search(matches, text)
        return Found(tuple(matches[offset : offset + limit]), len(matches), server_version, record_version)

    async def list_types(self) -> tuple[str, ...]:
        self._check_open()
        return tuple(sorted(self._tables))

    async def get_options(self, type: str) -> Options | None:
        self._check_open()
        check_options(type, NO_OPTIONS)
        return self._options.get(type)

    async def set_options(self, type: str, options: Options) -> None:
        self._check_open()
        check_options(type, options)
        if options == NO_OPTIONS:
            self._options.pop(type, None)
        else:
            self._options[type] = options
        if type in self._tables:
            self._tables[type].index_by(options.indexable_fields)

    async def clear(self) -> tuple[int, int]:
        self._check_open()
        old = self._server_version
        while self._server_version == old:
            self._server_version = _new_server_version()
        self._tables = {}
        self._log = ChangeLog()
        self._options = dict(BUILT_IN_OPTIONS)
        self._checkpoint = NO_CHECKPOINT
        self._wake()
        return old, self._server_version

    async def lease(self, name: str, holder: str, ttl: timedelta) -> bool:
        self._check_open()
        now = self._clock.monotonic()  # the hour of day may be set back or forward; a lease must not care
        other, expires_at = self._leases.get(name, (holder, now))
        if other != holder and expires_at >= now:
            return False
        self._leases[name] = (holder, now + ttl.total_seconds())
        return True

    async def release(self, name: str, holder: str) -> None:
        self._check_open()
        if self._leases.get(name, ("", 0.0))[0] == holder:
            del self._leases[name]

    async def latest(self, type: str = "") -> tuple[Cursor, tuple[Record, ...]]:
        self._check_open()
        tables = [self._tables[name] for name in sorted(self._tables) if type in ("", name)]
        records = tuple(record for table in tables for record in sorted(table, key=lambda record: record.id))
        return Cursor(self._server_version, self._log.latest), records

    async def changes(self, after: Cursor, type: str = "", *, wait: bool = True) -> AsyncGenerator[Record, None]:
        version = after.record_version
        while True:
            self._check_readable(after.server_version, version)
            changed = self._changed
            change = self._log.next_after(version, type)
            if change is not None:
                version = change.version
                yield change
            elif wait:
                # Whatever came until now was of other types; a clean-up of it must not end this reader.
                version = max(version, self._log.latest)
                await changed.wait()
            else:
                return

    async def checkpoint(self) -> Cursor:
        self._check_open()
        return self._checkpoint

    async def set_checkpoint(self, checkpoint: Cursor) -> None:
        self._check_open()
        self._checkpoint = checkpoint

    async def clean_up(self) -> None:
        self._check_open()
        now = self._clock.now()
        self._log.remove_before(now - RETENTION)
        for type, options in self._options.items():
            if options.ttl is not None and type in self._tables:
                for id in self._tables[type].modified_before(now - options.ttl):
                    self._delete(Record(type=type, id=id), now)
        monotonic = self._clock.monotonic()
        self._leases = {name: lease for name, lease in self._leases.items() if lease[1] >= monotonic}
        self._wake()

    async def close(self) -> None:
        self._closed = True
        self._wake()

    def _check_open(self) -> None:
        if self._closed:
            raise DatabrokerUnavailable("the databroker was closed")

    async def _turn(self) -> None:
        """Let others run before a write: a loop that only writes would otherwise keep the whole process waiting."""
        await asyncio.sleep(0)
        self._check_open()

    def _check_readable(self, server_version: int, record_version: int) -> None:
        self._check_open()
        if server_version != self._server_version:
            raise CursorExpired("invalid server version: the records were cleared since, or are those of another store")
        if not self._log.has_all_after(record_version):
            raise CursorExpired(
                f"invalid record version: changes after {record_version} were cleaned up, "
                f"the log begins at {self._log.earliest}"
            )

    def _wake(self) -> None:
        waiting, self._changed = self._changed, asyncio.Event()
        waiting.set()

    def _find(self, key: Key) -> Record | None:
        table = self._tables.get(key[0])
        return table.get(key[1]) if table is not None else None

    def _write(self, record: Record, now: datetime) -> Record:
        if record.deleted:
            return self._delete(record, now)
        stored = replace(record, version=self._log.latest + 1, modified_at=now)
        self._log.append(stored)
        if stored.type not in self._tables:
            self._tables[stored.type] = Table(self._options.get(stored.type, NO_OPTIONS).indexable_fields)
        self._tables[stored.type].set(stored)
        return stored

    def _delete(self, record: Record, now: datetime) -> Record:
        """Remove a record if it is there, and say so in the log in any case (C3), with the data it had."""
        table = self._tables.get(record.type)
        known = table.remove(record.id) if table is not None else None
        if table is not None and not table:
            del self._tables[record.type]
        tombstone = replace(known or record, version=self._log.latest + 1, modified_at=now, deleted_at=now)
        self._log.append(tombstone)
        return tombstone

    def _enforce_capacity(self, types: Iterable[str], now: datetime) -> None:
        for type in dict.fromkeys(types):
            capacity = self._options.get(type, NO_OPTIONS).capacity
            if capacity is not None and type in self._tables:
                for id in self._tables[type].beyond(capacity):
                    self._delete(Record(type=type, id=id), now)

    def _all_keys(self, type: str) -> set[Key]:
        return {(name, record.id) for name, table in self._tables_of(type) for record in table}

    def _tables_of(self, type: str) -> list[tuple[str, Table]]:
        return [(name, table) for name, table in self._tables.items() if type in ("", name)]

    def _matching(self, expression: Expression, type: str) -> set[Key]:
        match expression:
            case Equals(path, value):
                return self._equal(".".join(path), value, type)
            case And(terms):
                return set.intersection(*(self._matching(term, type) for term in terms))
            case Or(terms):
                return set().union(*(self._matching(term, type) for term in terms))
            case Not():
                raise Unsupported("filter: the operator $not is not supported by records in memory")

    def _equal(self, path: str, value: str, type: str) -> set[Key]:
        """Look up, never scan: a field that is not indexed matches nothing (databroker 6)."""
        keys: set[Key] = set()
        for name, table in self._tables_of(type):
            if path == "id":
                keys.update((name, id) for id in (value,) if table.get(id) is not None)
            elif path == "type":
                keys.update((name, record.id) for record in (table if name == value else ()))
            elif path == "$index":
                keys.update((name, id) for id in table.covering(value))
            else:
                keys.update((name, id) for id in table.holding(path, value))
        return keys

    async def _search(self, records: Sequence[Record], text: str) -> list[Record]:
        found: list[Record] = []
        for start in range(0, len(records), SEARCH_SLICE):
            found += [r for r in records[start : start + SEARCH_SLICE] if contains_text(r.data, text)]
            await asyncio.sleep(0)  # decoding every record takes its time, and requests are waiting
        return found


def _new_server_version() -> int:
    return secrets.randbelow(2**64 - 1) + 1
