"""What a write does to the file, inside a transaction that others begin and commit."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile

from pomerium_agent.databroker.backend import Options
from pomerium_agent.databroker.index import indexed_values, network_of
from pomerium_agent.databroker.options import BUILT_IN_OPTIONS
from pomerium_agent.databroker.patch import patch_payload
from pomerium_agent.databroker.sqlite.rows import (
    CHANGE_COLUMNS,
    RECORD_COLUMNS,
    dump_options,
    load_options,
    to_micros,
    to_record,
    to_row,
)
from pomerium_agent.databroker.sqlite.schema import new_server_version
from pomerium_agent.records import Cursor, Record

AT_A_TIME = 2_000  # rows that one clean-up removes before other writes get their turn
NO_OPTIONS = Options()


@dataclass(frozen=True, slots=True)
class Head:
    """The identity of the data set and the ends of its change log."""

    server_version: int
    earliest: int
    latest: int


def read_head(connection: sqlite3.Connection) -> Head:
    """As the file has it now."""
    meta = dict(connection.execute("SELECT key, value FROM meta WHERE key IN ('server_version', 'earliest')"))
    (latest,) = connection.execute("SELECT coalesce(max(version), 0) FROM change").fetchone()
    return Head(int(meta["server_version"]), int(meta["earliest"]), latest)


class Transaction:
    """One unit of work: `head` and `changes` say what it came to."""

    def __init__(self, connection: sqlite3.Connection, head: Head) -> None:
        self._db = connection
        self.head = head
        self.changes: list[Record] = []

    def put(self, records: Sequence[Record], now: datetime) -> tuple[Record, ...]:
        """Write or delete each, then enforce capacities."""
        stored = tuple(self._write(record, now) for record in records)
        self._enforce_capacity((record.type for record in records), now)
        return stored

    def patch(self, records: Sequence[Record], fields: Sequence[str], now: datetime) -> tuple[Record, ...]:
        """Copy the fields over what is there; nothing is written when one of them cannot be."""
        patched: dict[tuple[str, str], Record] = {}
        in_order: list[Record] = []
        for record in records:
            key = (record.type, record.id)
            current = patched.get(key) or self._find(*key)
            if current is not None:
                patched[key] = replace(current, data=patch_payload(current.data, record.data, fields))
                in_order.append(patched[key])
        return self.put(in_order, now)

    def set_options(self, type: str, options: Options) -> None:
        """Replace them, and index what is there by the fields they name (C20, C21)."""
        before = self._options(type).indexable_fields
        if options == NO_OPTIONS:
            self._db.execute("DELETE FROM option WHERE type = ?", (type,))
        else:
            self._db.execute("INSERT OR REPLACE INTO option VALUES (?, ?)", (type, dump_options(options)))
        if frozenset(before) == frozenset(options.indexable_fields):
            return
        self._db.execute("DELETE FROM field WHERE type = ?", (type,))
        if options.indexable_fields:
            for row in self._db.execute(f"SELECT {RECORD_COLUMNS} FROM record WHERE type = ?", (type,)):
                self._index_fields(to_record(row), options.indexable_fields)

    def set_built_in_options(self) -> None:
        """D-18."""
        for type, options in BUILT_IN_OPTIONS.items():
            self.set_options(type, options)

    def set_checkpoint(self, checkpoint: Cursor) -> None:
        text = json.dumps([checkpoint.server_version, checkpoint.record_version])
        self._db.execute("UPDATE meta SET value = ? WHERE key = 'checkpoint'", (text,))

    def clear(self) -> None:
        """Everything but the leases (C27)."""
        old = self.head.server_version
        new = old
        while new == old:
            new = new_server_version()
        for table in ("record", "change", "kind", "field", "network", "option"):
            self._db.execute(f"DELETE FROM {table}")
        self._db.execute("UPDATE meta SET value = ? WHERE key = 'server_version'", (str(new),))
        self._db.execute("UPDATE meta SET value = '0' WHERE key = 'earliest'")
        self.set_checkpoint(Cursor(0, 0))
        self.set_built_in_options()
        self.head = Head(new, 0, 0)

    def cut_log(self, before: datetime) -> bool:
        """Forget changes made before then, except the newest of all; False when there may be more to forget."""
        oldest = self._db.execute(
            "SELECT version, modified_at FROM change WHERE version >= ? ORDER BY version LIMIT ?",
            (self.head.earliest, AT_A_TIME),
        ).fetchall()
        limit = to_micros(before)
        stale = [version for version, _ in takewhile(lambda row: row[1] < limit, oldest) if version < self.head.latest]
        if not stale:
            return True
        self._db.execute("DELETE FROM change WHERE version <= ?", (stale[-1],))
        self.head = replace(self.head, earliest=stale[-1] + 1)
        self._db.execute("UPDATE meta SET value = ? WHERE key = 'earliest'", (str(self.head.earliest),))
        return len(stale) < AT_A_TIME

    def expire(self, now: datetime) -> bool:
        """Delete records whose ttl has passed; False when there are more of them."""
        done = True
        for type, text in self._db.execute("SELECT type, value FROM option").fetchall():
            ttl = load_options(text).ttl
            if ttl is None:
                continue
            rows = self._db.execute(
                "SELECT id FROM record WHERE type = ? AND modified_at < ? ORDER BY modified_at, version LIMIT ?",
                (type, to_micros(now - ttl), AT_A_TIME),
            ).fetchall()
            for (id,) in rows:
                self._delete(Record(type=type, id=id), now)
            done = done and len(rows) < AT_A_TIME
        return done

    def _next(self) -> int:
        self.head = replace(self.head, latest=self.head.latest + 1)
        return self.head.latest

    def _log(self, change: Record) -> None:
        self._db.execute(f"INSERT INTO change ({CHANGE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", to_row(change))
        self.changes.append(change)

    def _write(self, record: Record, now: datetime) -> Record:
        if record.deleted:
            return self._delete(record, now)
        stored = replace(record, version=self._next(), modified_at=now)
        self._log(stored)
        *values, _ = to_row(stored)
        replaced = self._db.execute(
            "UPDATE record SET version = ?1, data_type = ?4, data = ?5, modified_at = ?6 WHERE type = ?2 AND id = ?3",
            values,
        )
        if replaced.rowcount:
            self._unindex(stored.type, stored.id)
        else:
            self._db.execute(f"INSERT INTO record ({RECORD_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", values)
            self._db.execute("INSERT OR IGNORE INTO kind VALUES (?, 0)", (stored.type,))
            self._db.execute("UPDATE kind SET records = records + 1 WHERE type = ?", (stored.type,))
        self._index_fields(stored, self._options(stored.type).indexable_fields)
        network = network_of(stored.data)
        if network is not None:
            self._db.execute(
                "INSERT INTO network VALUES (?, ?, ?, ?)",
                (stored.type, stored.id, network.prefixlen, network.network_address.packed),
            )
        return stored

    def _delete(self, record: Record, now: datetime) -> Record:
        """Remove a record if it is there, and say so in the log in any case (C3), with the data it had."""
        known = self._find(record.type, record.id)
        if known is not None:
            self._db.execute("DELETE FROM record WHERE type = ? AND id = ?", (record.type, record.id))
            self._db.execute("UPDATE kind SET records = records - 1 WHERE type = ?", (record.type,))
            self._db.execute("DELETE FROM kind WHERE type = ? AND records = 0", (record.type,))
            self._unindex(record.type, record.id)
        tombstone = replace(known or record, version=self._next(), modified_at=now, deleted_at=now)
        self._log(tombstone)
        return tombstone

    def _enforce_capacity(self, types: Iterable[str], now: datetime) -> None:
        for type in dict.fromkeys(types):
            capacity = self._options(type).capacity
            if capacity is None:
                continue
            (records,) = self._db.execute(
                "SELECT coalesce(max(records), 0) FROM kind WHERE type = ?", (type,)
            ).fetchone()
            rows = self._db.execute(
                "SELECT id FROM record WHERE type = ? ORDER BY version LIMIT ?", (type, max(0, records - capacity))
            ).fetchall()
            for (id,) in rows:
                self._delete(Record(type=type, id=id), now)

    def _find(self, type: str, id: str) -> Record | None:
        row = self._db.execute(f"SELECT {RECORD_COLUMNS} FROM record WHERE type = ? AND id = ?", (type, id)).fetchone()
        return to_record(row) if row is not None else None

    def _options(self, type: str) -> Options:
        row = self._db.execute("SELECT value FROM option WHERE type = ?", (type,)).fetchone()
        return load_options(row[0]) if row is not None else NO_OPTIONS

    def _unindex(self, type: str, id: str) -> None:
        self._db.execute("DELETE FROM field WHERE type = ? AND id = ?", (type, id))
        self._db.execute("DELETE FROM network WHERE type = ? AND id = ?", (type, id))

    def _index_fields(self, record: Record, fields: Sequence[str]) -> None:
        if fields:
            self._db.executemany(
                "INSERT OR IGNORE INTO field (type, field, value, id) VALUES (?, ?, ?, ?)",
                [(record.type, field, value, record.id) for field, value in indexed_values(record.data, fields)],
            )
