"""The console's SQLite file: where it lies, who may read it, how its shape moves forward."""

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pomerium_agent.console.sealing import Seal, open_seal
from pomerium_agent.errors import SettingsError

FILE = "console.db"
BUSY_MS = 5_000  # how long a write waits for another process's write
_CANARY = "the check value of the key file"

# Never edit a step that was released: add the next one. PRAGMA user_version counts the steps taken.
MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE cluster (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE COLLATE NOCASE,
        organization_id TEXT NOT NULL,
        domain TEXT NOT NULL UNIQUE,
        token_hash BLOB NOT NULL UNIQUE,
        generation INTEGER NOT NULL,         -- grows with every rotation of the token
        secrets BLOB NOT NULL,               -- sealed
        bootstrap_version INTEGER NOT NULL,  -- grows when what GET bootstrap answers changes
        version INTEGER NOT NULL,            -- of the configuration in force
        created_at TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE config (
        cluster_id TEXT NOT NULL REFERENCES cluster (id) ON DELETE CASCADE,
        version INTEGER NOT NULL,
        config BLOB NOT NULL,                -- sealed
        digest TEXT NOT NULL,                -- of the records a replica makes of it
        reason TEXT NOT NULL,
        created_at TEXT NOT NULL,
        PRIMARY KEY (cluster_id, version)
    );
    CREATE INDEX config_digest ON config (cluster_id, digest, version);
    CREATE TABLE certificate (               -- cluster_id '' is the console's own authority
        cluster_id TEXT PRIMARY KEY,
        chain TEXT NOT NULL,
        key BLOB NOT NULL,                   -- sealed
        not_after TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE replica (
        cluster_id TEXT NOT NULL REFERENCES cluster (id) ON DELETE CASCADE,
        instance TEXT NOT NULL,
        hostname TEXT NOT NULL,
        version TEXT NOT NULL,
        address TEXT NOT NULL,
        streams INTEGER NOT NULL,            -- open right now
        connected_at TEXT,
        last_seen TEXT NOT NULL,
        PRIMARY KEY (cluster_id, instance)
    ) WITHOUT ROWID;
    CREATE TABLE report (
        cluster_id TEXT NOT NULL,
        instance TEXT NOT NULL,
        name TEXT NOT NULL,
        error TEXT NOT NULL,                 -- empty: running
        attributes TEXT NOT NULL,            -- JSON
        time_ns INTEGER NOT NULL,
        PRIMARY KEY (cluster_id, instance, name),
        FOREIGN KEY (cluster_id, instance) REFERENCES replica (cluster_id, instance) ON DELETE CASCADE
    ) WITHOUT ROWID;
    CREATE TABLE bundle_status (
        cluster_id TEXT NOT NULL REFERENCES cluster (id) ON DELETE CASCADE,
        bundle_id TEXT NOT NULL,
        status TEXT NOT NULL,                -- JSON
        at TEXT NOT NULL,
        PRIMARY KEY (cluster_id, bundle_id)
    ) WITHOUT ROWID;
    CREATE TABLE usage (
        cluster_id TEXT NOT NULL REFERENCES cluster (id) ON DELETE CASCADE,
        pseudonymous_id TEXT NOT NULL,
        pseudonymous_email TEXT NOT NULL,
        last_signed_in_at TEXT NOT NULL,
        PRIMARY KEY (cluster_id, pseudonymous_id)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE service_account (           -- no token: those are signed with the cluster's secret
        cluster_id TEXT NOT NULL REFERENCES cluster (id) ON DELETE CASCADE,
        id TEXT NOT NULL,
        name TEXT NOT NULL COLLATE NOCASE,
        user_id TEXT NOT NULL,
        description TEXT NOT NULL,
        created_at TEXT NOT NULL,
        expires_at TEXT,                     -- NULL: never
        PRIMARY KEY (cluster_id, id),
        UNIQUE (cluster_id, name)
    ) WITHOUT ROWID;
    -- grows when an account comes or goes
    ALTER TABLE cluster ADD COLUMN accounts_version INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE cluster ADD COLUMN accounts_changed_at TEXT;
    """,
    """
    CREATE TABLE login_secret (              -- settings of the login, keys that sign tokens; by name
        name TEXT PRIMARY KEY,
        value BLOB NOT NULL                  -- sealed
    ) WITHOUT ROWID;
    CREATE TABLE login_key (                 -- HPKE key pairs
        public BLOB PRIMARY KEY,
        private BLOB NOT NULL,               -- sealed
        current_from TEXT NOT NULL           -- published from then on, until the next one is
    ) WITHOUT ROWID;
    CREATE TABLE login_tokens (              -- clusters that asked for the tokens of their people
        cluster_id TEXT PRIMARY KEY REFERENCES cluster (id) ON DELETE CASCADE
    ) WITHOUT ROWID;
    CREATE TABLE login_consent (             -- who agreed that a cluster may know them
        cluster_id TEXT NOT NULL REFERENCES cluster (id) ON DELETE CASCADE,
        person BLOB NOT NULL,                -- a hash of provider and subject
        at TEXT NOT NULL,
        PRIMARY KEY (cluster_id, person)
    ) WITHOUT ROWID;
    CREATE TABLE login_session (             -- browsers that are signed in at the console
        id BLOB PRIMARY KEY,                 -- a hash of the cookie
        identity BLOB NOT NULL,              -- sealed: claims and tokens
        created_at TEXT NOT NULL,
        checked_at TEXT NOT NULL,            -- when the provider last vouched for it
        expires_at TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE login_visit (               -- what such a browser is to one cluster
        id TEXT PRIMARY KEY,
        session BLOB NOT NULL REFERENCES login_session (id) ON DELETE CASCADE,
        cluster_id TEXT NOT NULL REFERENCES cluster (id) ON DELETE CASCADE,
        idp_id TEXT NOT NULL,
        created_at TEXT NOT NULL,
        UNIQUE (session, cluster_id, idp_id)
    ) WITHOUT ROWID;
    CREATE TABLE login_grant (               -- tokens of ours that a cluster holds; hashes only
        id TEXT PRIMARY KEY,
        visit TEXT NOT NULL REFERENCES login_visit (id) ON DELETE CASCADE,
        client_id TEXT NOT NULL,
        scope TEXT NOT NULL,
        nonce TEXT NOT NULL,
        access BLOB NOT NULL UNIQUE,
        access_until TEXT NOT NULL,
        refresh BLOB,
        previous BLOB,                       -- the refresh token before
        rotated_at TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE login_used (                -- ids of client assertions, until they have expired
        id BLOB PRIMARY KEY,
        until TEXT NOT NULL
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE connected (                 -- clusters of which a replica was ever seen; replicas are forgotten
        cluster_id TEXT PRIMARY KEY REFERENCES cluster (id) ON DELETE CASCADE,
        since TEXT NOT NULL
    ) WITHOUT ROWID;
    INSERT INTO connected SELECT cluster_id, min(last_seen) FROM replica GROUP BY cluster_id;
    CREATE TABLE cluster_address (           -- where the names of a cluster lead, when somebody says so
        cluster_id TEXT PRIMARY KEY REFERENCES cluster (id) ON DELETE CASCADE,
        address TEXT NOT NULL
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE old_token (                 -- the token before the present one, while both are good
        cluster_id TEXT PRIMARY KEY REFERENCES cluster (id) ON DELETE CASCADE,
        token_hash BLOB NOT NULL UNIQUE,
        generation INTEGER NOT NULL,
        until TEXT NOT NULL
    ) WITHOUT ROWID;
    -- of the token with which it came last; 0: not known
    ALTER TABLE replica ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
    """,
    """
    CREATE TABLE telemetry (                 -- what each replica last answered, when it was asked for metrics
        cluster_id TEXT NOT NULL,
        instance TEXT NOT NULL,
        at TEXT NOT NULL,
        scopes TEXT NOT NULL,                -- JSON
        dau INTEGER,                         -- NULL: it did not have the lease
        mau INTEGER,
        PRIMARY KEY (cluster_id, instance),
        FOREIGN KEY (cluster_id, instance) REFERENCES replica (cluster_id, instance) ON DELETE CASCADE
    ) WITHOUT ROWID;
    """,
)


class Database:
    """One connection, one lock: safe to call from any thread, one call at a time."""

    def __init__(self, connection: sqlite3.Connection, seal: Seal, data_dir: Path) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.seal = seal
        self.data_dir = data_dir

    def read(self, sql: str, values: Sequence[object] = ()) -> list[sqlite3.Row]:
        """Every row of one SELECT."""
        with self._lock:
            return list(self._connection.execute(sql, values))

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the write lock from its first line: all of it is stored, or nothing."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def foreign_version(self) -> int:
        """A number that changes when another connection has written."""
        return int(self.read("PRAGMA data_version")[0][0])

    def copy_into(self, target: sqlite3.Connection) -> None:
        """All of it, as it is at one moment, into another database. Raises sqlite3.Error."""
        with self._lock:
            self._connection.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")  # one file, without others beside it

    def close(self) -> None:
        """Close, once whoever still works in another thread is done: SQLite does not survive less."""
        with self._lock:
            self._connection.close()


@contextmanager
def open_database(data_dir: Path, *, create: bool = True) -> Iterator[Database]:
    """Open the database of a data directory, made and brought up to date when needed (0700, files 0600)."""
    path = data_dir / FILE
    try:
        if create:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif not path.exists():
            raise SettingsError(
                f"{data_dir} holds no console; create a cluster first with `console cluster create NAME`, "
                "or name the right place with --data-dir or POMERIUM_CONSOLE_DATA"
            )
        if data_dir.stat().st_mode & 0o077:
            data_dir.chmod(0o700)  # it holds secrets; whoever made it was too generous
        new = not path.exists()
        seal = open_seal(data_dir, create=new)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite gives its side files the same mode
        # Autocommit: every transaction is begun by hand, in `write`.
        connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    except (OSError, sqlite3.Error) as error:
        raise SettingsError(f"the console's data directory {data_dir} cannot be used: {error}") from error
    database = Database(connection, seal, data_dir)
    try:
        try:
            _prepare(connection, seal, path)
        except sqlite3.Error as error:
            raise SettingsError(f"{path} cannot be opened as the console's database: {error}") from error
        yield database
    finally:
        database.close()


def _prepare(connection: sqlite3.Connection, seal: Seal, path: Path) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("BEGIN IMMEDIATE")
    try:
        done = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if done > len(MIGRATIONS):
            raise SettingsError(
                f"{path} was written by a newer version of the console (step {done}, this one knows "
                f"{len(MIGRATIONS)}); run that version, or restore an older backup"
            )
        for step in MIGRATIONS[done:]:
            for statement in step.split(";\n"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        _check_key(connection, seal)
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _check_key(connection: sqlite3.Connection, seal: Seal) -> None:
    """A wrong key file is found at once, not at the first secret."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'canary'").fetchone()
    if row is None:
        connection.execute("INSERT INTO meta VALUES ('canary', ?)", (seal.seal(b"canary", _CANARY),))
    else:
        seal.open(row["value"], _CANARY)
