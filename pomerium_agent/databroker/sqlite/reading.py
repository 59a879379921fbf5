"""What is read from the file, each in one snapshot of it."""

import json
import sqlite3
from collections.abc import Iterable, Sequence

from pomerium_agent.databroker.backend import Options
from pomerium_agent.databroker.filters import And, Equals, Expression, Not, Or
from pomerium_agent.databroker.index import parse_network
from pomerium_agent.databroker.sqlite.rows import CHANGE_COLUMNS, RECORD_COLUMNS, load_options, to_record
from pomerium_agent.databroker.sqlite.transaction import read_head
from pomerium_agent.databroker.textsearch import contains_text
from pomerium_agent.errors import CursorExpired, RecordNotFound, Unsupported
from pomerium_agent.records import Cursor, Record

Key = tuple[str, str]  # type and id
LARGEST = 2**63 - 1


def get(db: sqlite3.Connection, type: str, id: str) -> Record:
    """Raises RecordNotFound."""
    row = db.execute(f"SELECT {RECORD_COLUMNS} FROM record WHERE type = ? AND id = ?", (type, id)).fetchone()
    if row is None:
        raise RecordNotFound(f"there is no record {id!r} of type {type!r}")
    return to_record(row)


def get_all(db: sqlite3.Connection, keys: Sequence[Key]) -> list[Record]:
    """Those of them that are there, in this order."""
    rows = (
        db.execute(f"SELECT {RECORD_COLUMNS} FROM record WHERE type = ? AND id = ?", key).fetchone() for key in keys
    )
    return [to_record(row) for row in rows if row is not None]


def types(db: sqlite3.Connection) -> tuple[str, ...]:
    return tuple(type for (type,) in db.execute("SELECT type FROM kind ORDER BY type"))


def options(db: sqlite3.Connection, type: str) -> Options | None:
    row = db.execute("SELECT value FROM option WHERE type = ?", (type,)).fetchone()
    return load_options(row[0]) if row is not None else None


def checkpoint(db: sqlite3.Connection) -> Cursor:
    (text,) = db.execute("SELECT value FROM meta WHERE key = 'checkpoint'").fetchone()
    return Cursor(*json.loads(text))


def page_after(db: sqlite3.Connection, type: str, after: Key | None, limit: int) -> list[Record]:
    """Current records of a type (empty: all) in order of type and id, from behind `after`."""
    select = f"SELECT {RECORD_COLUMNS} FROM record"
    after_type, after_id = after or (type, "")
    beyond = ">" if after else ">="
    if type:  # not `(type, id) > …` as well: SQLite would begin each page at the first record of the type
        rows = db.execute(f"{select} WHERE type = ? AND id {beyond} ? ORDER BY id LIMIT ?", (type, after_id, limit))
    else:
        rows = db.execute(
            f"{select} WHERE (type, id) {beyond} (?, ?) ORDER BY type, id LIMIT ?", (after_type, after_id, limit)
        )
    return [to_record(row) for row in rows]


def page_at(db: sqlite3.Connection, type: str, offset: int, limit: int) -> tuple[list[Record], int]:
    """One page of the current records of a type (empty: all), and how many there are."""
    of_type = "type = ?1" if type else "?1 = ''"
    (count,) = db.execute(f"SELECT coalesce(sum(records), 0) FROM kind WHERE {of_type}", (type,)).fetchone()
    rows = db.execute(
        f"SELECT {RECORD_COLUMNS} FROM record WHERE {of_type} ORDER BY type, id LIMIT ?2 OFFSET ?3",
        (type, min(limit, LARGEST), min(offset, LARGEST)),
    )
    return [to_record(row) for row in rows], count


def changes_after(db: sqlite3.Connection, after: Cursor, type: str, limit: int) -> tuple[list[Record], int]:
    """The next changes of a type (empty: all), and the version up to which these are all of them.

    Raises CursorExpired when there is no telling.
    """
    head = read_head(db)
    if after.server_version != head.server_version:
        raise CursorExpired("invalid server version: the records were cleared since, or are those of another store")
    if head.earliest and after.record_version < head.earliest - 1:
        raise CursorExpired(
            f"invalid record version: changes after {after.record_version} were cleaned up, "
            f"the log begins at {head.earliest}"
        )
    of_type = "type = ?3 AND" if type else "?3 = '' AND"
    rows = db.execute(
        f"SELECT {CHANGE_COLUMNS} FROM change WHERE {of_type} version > ?1 ORDER BY version LIMIT ?2",
        (min(after.record_version, LARGEST), limit, type),
    ).fetchall()
    found = [to_record(row) for row in rows]
    return found, found[-1].version if len(found) == limit else max(head.latest, after.record_version)


def matching(db: sqlite3.Connection, expression: Expression, type: str) -> set[Key]:
    """The keys of the current records for which it holds; looked up, never scanned for."""
    match expression:
        case Equals(path, value):
            return set(_equal(db, ".".join(path), value, type))
        case And(terms):
            return set.intersection(*(matching(db, term, type) for term in terms))
        case Or(terms):
            return set().union(*(matching(db, term, type) for term in terms))
        case Not():
            raise Unsupported("filter: the operator $not is not supported by records in a file")


def _equal(db: sqlite3.Connection, path: str, value: str, type: str) -> Iterable[Key]:
    of_type = "type = ?1" if type else "?1 = ''"
    if path == "id":
        return db.execute(f"SELECT type, id FROM record WHERE id = ?2 AND {of_type}", (type, value))
    if path == "type":
        return db.execute(f"SELECT type, id FROM record WHERE type = ?2 AND {of_type}", (type, value))
    if path != "$index":
        return db.execute(
            f"SELECT type, id FROM field WHERE field = ?2 AND value = ?3 AND {of_type}",
            (type, path, value),
        )
    return _covering(db, value, type)


def _covering(db: sqlite3.Connection, value: str, type: str) -> Iterable[Key]:
    """Every prefix that could cover it is looked up: at most 33 or 129, however many networks there are (D-22, V10)."""
    wanted = parse_network(value)
    if wanted is None:
        return
    of_type = "type = ?1" if type else "?1 = ''"
    for length in range(wanted.prefixlen + 1):
        first = wanted.supernet(new_prefix=length).network_address.packed
        yield from db.execute(
            f"SELECT type, id FROM network WHERE length = ?2 AND first = ?3 AND {of_type}",
            (type, length, first),
        )


def holding(records: Sequence[Record], text: str, _: sqlite3.Connection) -> list[Record]:
    """Those in which the text is found (D-9); here, since decoding takes its time."""
    return [record for record in records if contains_text(record.data, text)]
