"""The shape of the file, how it moves forward, and what makes us refuse a file rather than write to it."""

import json
import secrets
import sqlite3
from pathlib import Path

from pomerium_agent.errors import SettingsError

APPLICATION_ID = 0x706D6462  # "pmdb", in the file's header: this is a databroker and nobody else's data
MAGIC = b"SQLite format 3\0"
BUSY_MS = 5_000
WAL_KEEP_BYTES = 64 * 1024 * 1024  # what a large write may leave behind of the log

# Never edit a step that was released: add the next one. PRAGMA user_version counts the steps taken.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (                      -- server_version, earliest, checkpoint
        key TEXT PRIMARY KEY,
        value TEXT NOT NULL                  -- as text, since a checkpoint may need all 64 bits
    ) WITHOUT ROWID;
    CREATE TABLE change (                    -- the change log
        version INTEGER PRIMARY KEY,
        type TEXT NOT NULL,
        id TEXT NOT NULL,
        modified_at INTEGER NOT NULL,        -- microseconds since 1970
        deleted_at INTEGER,
        data_type TEXT,                      -- NULL: the record has no data
        data BLOB                            -- last, so that nobody reads over it on the way to the others
    );
    CREATE INDEX change_of_type ON change (type, version);
    CREATE TABLE record (                    -- the current records
        type TEXT NOT NULL,
        id TEXT NOT NULL,
        version INTEGER NOT NULL,
        modified_at INTEGER NOT NULL,
        data_type TEXT,
        data BLOB,
        PRIMARY KEY (type, id)
    );
    CREATE INDEX record_by_id ON record (id);
    CREATE INDEX record_by_version ON record (type, version);
    CREATE INDEX record_by_time ON record (type, modified_at, version);
    CREATE TABLE kind (                      -- the types that have current records, and how many
        type TEXT PRIMARY KEY,
        records INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE field (                     -- indexed fields
        type TEXT NOT NULL,
        field TEXT NOT NULL,
        value TEXT NOT NULL,
        id TEXT NOT NULL,
        PRIMARY KEY (field, value, type, id)
    ) WITHOUT ROWID;
    CREATE INDEX field_of_record ON field (type, id);
    CREATE TABLE network (                   -- prefixes at $index.cidr
        type TEXT NOT NULL,
        id TEXT NOT NULL,
        length INTEGER NOT NULL,
        first BLOB NOT NULL,                 -- its first address: 4 or 16 bytes
        PRIMARY KEY (type, id)
    ) WITHOUT ROWID;
    CREATE INDEX network_by_prefix ON network (length, first);
    CREATE TABLE option (
        type TEXT PRIMARY KEY,
        value TEXT NOT NULL                  -- JSON: capacity, fields, ttl in microseconds
    ) WITHOUT ROWID;
    CREATE TABLE lease (                     -- no time: after a start each counts as just renewed
        name TEXT PRIMARY KEY,
        holder TEXT NOT NULL,
        ttl REAL NOT NULL                    -- seconds
    ) WITHOUT ROWID;
    """,
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection to an existing file, for one thread at a time.

    In WAL mode readers and the writer do not wait for each other. With synchronous=NORMAL a power cut could take back
    the last commits, after we said that they were done; FULL writes the log through to the disk before we say so.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    try:
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def open_checked(path: Path) -> sqlite3.Connection:
    """Check what the file is, before anything is written to it; then bring it to the newest shape.

    Raises SettingsError for a file that is not ours, is damaged, or was made by a newer version.
    """
    with path.open("rb") as file:
        head = file.read(len(MAGIC))
    if head not in (b"", MAGIC):  # SQLite would take a file of a few bytes for an empty one
        raise SettingsError(_damaged(path))
    try:
        connection = connect(path)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise SettingsError(_damaged(path)) from error
    try:
        _prepare(connection, path)
    except (sqlite3.Error, SettingsError):
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    try:
        steps = _check(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_KEEP_BYTES}")
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # the disk's, not the file's
            raise
        raise SettingsError(_damaged(path)) from error
    for number, step in enumerate(MIGRATIONS[steps:], steps + 1):
        begin = f"BEGIN IMMEDIATE; {step}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number};"
        try:
            connection.executescript(begin + _first_rows(number) + "COMMIT;")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _check(connection: sqlite3.Connection, path: Path) -> int:
    """How many steps the file has taken."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (steps,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not (application or steps or tables):
        return 0  # new
    if application != APPLICATION_ID:
        raise SettingsError(
            f"databroker storage: {path} is a database of another program; nothing in it was changed. "
            "Name another directory, or move the file away"
        )
    if steps > len(MIGRATIONS):
        raise SettingsError(
            f"databroker storage: {path} was made by a newer version of the agent (step {steps}, this one knows "
            f"{len(MIGRATIONS)}); nothing in it was changed. Install that version, or move the file away"
        )
    if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise SettingsError(_damaged(path))
    return int(steps)


def _damaged(path: Path) -> str:
    return (
        f"databroker storage: {path} is damaged, or no SQLite file at all; nothing in it was changed. "
        "Restore it from a backup, or move it away to begin with an empty store"
    )


def _first_rows(step: int) -> str:
    if step != 1:
        return ""
    values = {"server_version": new_server_version(), "earliest": 0, "checkpoint": json.dumps([0, 0])}
    return "".join(f"INSERT INTO meta VALUES ('{key}', '{value}');" for key, value in values.items())


def new_server_version() -> int:
    """A random identity of a data set (databroker 4), in the 63 bits that every integer column can hold."""
    return secrets.randbelow(2**63 - 1) + 1
