"""The promise every store of records keeps, and the values it speaks in."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from pomerium_agent.records import Cursor, Record

PAGE_SIZE = 64


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a store says of its change log (databroker 4)."""

    server_version: int
    earliest_record_version: int
    latest_record_version: int

    @property
    def cursor(self) -> Cursor:
        """The end of the log."""
        return Cursor(self.server_version, self.latest_record_version)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a type of records may cost: how many, for how long, looked up by which dotted fields (databroker 7)."""

    capacity: int | None = None
    indexable_fields: tuple[str, ...] = ()
    ttl: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """The answer to a write: the records as stored, in request order, versions and times filled in."""

    server_version: int
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a query: one page of matches, how many there are in all, and how fresh the answer is."""

    records: tuple[Record, ...]
    total_count: int
    server_version: int
    record_version: int


class Backend(Protocol):
    """Where records live. Every backend passes tests/contract/test_backend*.py unchanged.

    One counter of versions runs over all types. It grows by one per change and is never reused under the
    same server version, so a reader that has seen a cursor can ask for all that came after it and miss
    nothing. Versions and times in what a caller hands in are ignored (D-11).

    Everything raises DatabrokerUnavailable when the store behind cannot be reached.
    """

    async def server_info(self) -> ServerInfo:
        """The identity of the data set and the ends of its change log."""

    async def get(self, type: str, id: str) -> Record:
        """Read one record. Raises RecordNotFound when it is missing or deleted."""

    async def put(self, records: Sequence[Record]) -> Written:
        """Write all of `records` or none of them, in order; then enforce the capacity of each type touched.

        One with `deleted_at` is deleted, and appears in the change log even if there was nothing to delete (C3).
        """

    async def patch(self, records: Sequence[Record], fields: Sequence[str]) -> Written:
        """Copy the dotted proto fields named in `fields` over the stored records; missing records are left out.

        All or nothing. A field that the given data does not set is cleared. Raises InvalidRequest for a field the
        message does not have, and for data of another or an unknown type.
        """

    async def query(
        self, type: str, *, text: str = "", filter: Mapping[str, object] | None = None, offset: int = 0, limit: int
    ) -> Found:
        """Current records of `type` (empty: all) that match; `filter` is the Struct of databroker 6 as plain values.

        Ordered by (type, id); `limit` 0 counts and returns no records. `text` is looked for in all string values,
        upper or lower case. Raises InvalidRequest for a filter that cannot be read and for a negative offset or
        limit, Unsupported for an operator that the backend cannot look up.
        """

    async def list_types(self) -> tuple[str, ...]:
        """The sorted types that have at least one current record."""

    async def get_options(self, type: str) -> Options | None:
        """The stored options of a type; None when there are none. Raises InvalidRequest for an empty type."""

    async def set_options(self, type: str, options: Options) -> None:
        """Replace the options of a type; empty options remove them."""

    async def clear(self) -> tuple[int, int]:
        """Forget all records, changes and options, keep the leases; returns the old and the new server version.

        The checkpoint goes back to 0/0, the built-in options come again (V14), and every open `changes` raises
        CursorExpired, since what it read no longer exists.
        """

    async def lease(self, name: str, holder: str, ttl: timedelta) -> bool:
        """Take or renew the lease `name` for `holder`; False while another holder's has not expired.

        A lease that expired and that nobody took can still be renewed (databroker 8).
        """

    async def release(self, name: str, holder: str) -> None:
        """Give the lease back at once; does nothing for anyone but its holder."""

    async def latest(self, type: str = "") -> tuple[Cursor, tuple[Record, ...]]:
        """All current records of a type (empty: all), ordered by (type, id), and a cursor from which to go on.

        The cursor is never newer than the records: what changed meanwhile comes again through `changes`.
        """

    def changes(self, after: Cursor, type: str = "", *, wait: bool = True) -> AsyncGenerator[Record, None]:
        """Yield every change after the cursor in version order, deletions included; then wait for more.

        Raises CursorExpired when the data set is another one or the place in the log was cleaned up, and
        DatabrokerUnavailable when the backend is closed (C19).
        """

    async def checkpoint(self) -> Cursor:
        """How far a replication got that writes into this store; 0/0 when there was none."""

    async def set_checkpoint(self, checkpoint: Cursor) -> None:
        """Remember how far a replication got."""

    async def clean_up(self) -> None:
        """Forget changes older than an hour, except the newest, and delete the records whose `ttl` has passed.

        Whoever opened the backend calls this every 60 seconds (databroker 7); see `run_cleanup`.
        """

    async def close(self) -> None:
        """End every waiting `changes`; afterwards everything raises DatabrokerUnavailable."""
