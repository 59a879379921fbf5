"""How a part of the agent keeps its own copy of a type of records: all of them once, then each change."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.errors import CursorExpired, DatabrokerUnavailable
from pomerium_agent.records import Cursor, Record
from pomerium_agent.runtime.health import Check, Health

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reset:
    """A complete new copy: whatever the reader had is void, and these take its place as a whole (V13)."""

    records: tuple[Record, ...]
    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Updated:
    """One record changed, or was deleted (`record.deleted`)."""

    record: Record
    cursor: Cursor


Change = Reset | Updated


async def follow(
    backend: Backend, type: str, *, health: Health | None = None, after: Cursor | None = None
) -> AsyncGenerator[Change, None]:
    """Yield a Reset, then every later change of `type` (empty: all types), for ever (databroker 10, D-37).

    With `after`, the cursor of the last change a reader took in, it goes on from there and begins with no Reset,
    if it can. When the place in the log is lost, it starts over at once with another Reset. It misses nothing; what
    changed while the copy was made may come twice. Raises DatabrokerUnavailable, and whoever supervises the reader
    comes again. Close it (`contextlib.aclosing`) when you leave the loop early.

    `health` hears of each initial copy as `databroker.sync.initial`.
    """
    cursor = after
    while True:
        if cursor is None:
            cursor, records = await _copy(backend, type, health)
            yield Reset(records, cursor)
        try:
            async with aclosing(backend.changes(cursor, type)) as changes:
                async for record in changes:
                    cursor = Cursor(cursor.server_version, record.version)
                    yield Updated(record, cursor)
        except CursorExpired as expired:
            log.info("reading all records again", type=type, reason=str(expired))
            cursor = None


async def _copy(backend: Backend, type: str, health: Health | None) -> tuple[Cursor, tuple[Record, ...]]:
    try:
        copy = await backend.latest(type)
    except DatabrokerUnavailable as error:
        if health is not None:
            health.failed(Check.DATABROKER_SYNC, str(error))
        raise
    if health is not None:
        health.running(Check.DATABROKER_SYNC)
    return copy
