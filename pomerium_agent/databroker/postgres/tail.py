"""How far the change log can be read without missing a change that commits late, and who is told when it grows.

A writer is given its version when it inserts, and its change is seen when it commits. So a later version may be seen
first; a reader that went on from there would never see the earlier one (V1, D-13). Our own writers take a lock and
commit in the order of their versions. Those of the reference do not, and share the database with us, so:

    log       … 41 42 43 __ 45        44 is missing: rolled back, or not committed yet
    horizon           ^               readers go no further, until
    then      … 41 42 43 __ 45        nobody who was writing when we saw the hole is still writing
                             ^        44 is not there now, so it never comes

Who writes is read from pg_locks: to insert into the log takes a lock on it, from before the version until the commit.
A log without holes costs one look.
"""

import asyncio
from typing import NamedTuple

import asyncpg
import structlog

from pomerium_agent.databroker.postgres.link import Connection
from pomerium_agent.errors import CursorExpired, DatabrokerUnavailable
from pomerium_agent.records import Cursor
from pomerium_agent.runtime.clock import Clock

log = structlog.get_logger(__name__)

PATIENCE = 30.0  # seconds after which a transaction that keeps the horizon back is named in the log
STATE = """
    select
        m.server_version,
        coalesce((select min(version) from pomerium.record_changes), 0) as earliest,
        coalesce((select max(version) from pomerium.record_changes), 0) as latest,
        (select count(*) from pomerium.record_changes where version > $1) as above
    from pomerium.migration_info m
    limit 1
"""
WRITERS = """
    select virtualtransaction
    from pg_catalog.pg_locks
    where locktype = 'relation'
        and database = (select oid from pg_catalog.pg_database where datname = current_database())
        and relation = 'pomerium.record_changes'::regclass
        and mode = 'RowExclusiveLock' and granted and pid is distinct from pg_backend_pid()
"""


class Horizon(NamedTuple):
    """What can be said of the log at one moment: `version` is the last one before which nothing can still appear."""

    server_version: int
    earliest: int
    version: int


class Pending(NamedTuple):
    """The log has a hole below `version`; it is settled when the `writers` of that moment are done."""

    version: int
    writers: frozenset[str]
    since: float


class Tail:
    """The horizon of one data set. Any connection may `advance` it; it never goes back while the data set lives."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = asyncio.Lock()
        self._server_version = 0
        self._version = 0
        self._pending: Pending | None = None
        self._named: Pending | None = None
        self._lives = 0  # how often what readers had seen turned out to be void
        self._changed = asyncio.Event()
        self.out_of_reach = "the database was not reached yet"  # empty: all is well
        self.closed = False

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change of anything here; take it before you look."""
        return self._changed

    @property
    def waits(self) -> bool:
        """Whether the horizon waits for somebody's transaction to end."""
        return self._pending is not None

    def check(self) -> None:
        """Raise DatabrokerUnavailable when the store is closed or out of reach."""
        if self.closed:
            raise DatabrokerUnavailable("the databroker was closed")
        if self.out_of_reach:
            raise DatabrokerUnavailable(self.out_of_reach)

    def check_same(self, cursor: Cursor, life: int) -> None:
        """Raise CursorExpired for a cursor of another data set, or when the log lost what the reader has seen."""
        if cursor.server_version != self._server_version or life != self._lives:
            raise CursorExpired("invalid server version: the records were cleared since, or are those of another store")

    @property
    def life(self) -> int:
        return self._lives

    async def advance(self, connection: Connection) -> Horizon:
        """Look at the log, and move the horizon as far as it may go."""
        async with self._lock:
            before = (self._server_version, self._version, self._lives)
            earliest = await self._look(connection)
            if before != (self._server_version, self._version, self._lives):
                self.wake()
            return Horizon(self._server_version, earliest, self._version)

    async def _look(self, connection: Connection) -> int:
        state = await self._state(connection, self._version)
        if state["server_version"] != self._server_version:
            self._server_version, self._version, self._pending = state["server_version"], 0, None
            state = await self._state(connection, 0)
        elif state["latest"] < self._version:
            # The server came back without its last commits: a standby that had not heard of them was promoted.
            log.warning("database lost changes", seen_up_to=self._version, now_up_to=state["latest"])
            self._lives += 1
            self._version, self._pending = 0, None
            state = await self._state(connection, 0)
        if state["above"] == state["latest"] - self._version:
            self._version, self._pending = state["latest"], None
        else:
            self._settle(state["latest"], await self._writers(connection))
        return int(state["earliest"])

    def _settle(self, latest: int, writers: frozenset[str]) -> None:
        """There is a hole up to `latest`, and `writers` were at work after we saw it."""
        now = self._clock.monotonic()
        pending = self._pending
        if pending is not None:
            pending = pending._replace(writers=pending.writers & writers)
            if not pending.writers:
                self._version, pending = max(self._version, pending.version), None
        if not writers:
            self._version, pending = latest, None
        elif pending is None:
            pending = Pending(latest, writers, now)
        self._pending = pending
        if pending is not None and now - pending.since > PATIENCE and self._named != pending:
            self._named = pending
            log.warning(
                "a program keeps a transaction open in which it wrote records; changes since then wait for it",
                since_seconds=round(now - pending.since),
                transactions=sorted(pending.writers),
            )

    async def _state(self, connection: Connection, version: int) -> asyncpg.Record:
        row = await connection.fetchrow(STATE, version)
        if row is None:
            raise DatabrokerUnavailable("the database has no row in pomerium.migration_info")
        return row

    async def _writers(self, connection: Connection) -> frozenset[str]:
        return frozenset(row["virtualtransaction"] for row in await connection.fetch(WRITERS))

    def wake(self) -> None:
        """Let everyone who waits look again."""
        waiting, self._changed = self._changed, asyncio.Event()
        waiting.set()
