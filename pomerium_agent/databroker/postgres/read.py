"""Reading: current records, pages of the change log, queries (databroker 11.6)."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import asyncpg

from pomerium_agent.databroker.backend import PAGE_SIZE, Found
from pomerium_agent.databroker.filters import parse_filter
from pomerium_agent.databroker.postgres.encoding import TEXT_IN_LOOP, decode, placeholder
from pomerium_agent.databroker.postgres.filters import Conditions
from pomerium_agent.databroker.postgres.link import Connection, Link
from pomerium_agent.databroker.postgres.tail import Horizon, Tail
from pomerium_agent.databroker.textsearch import contains_text
from pomerium_agent.errors import DatabrokerUnavailable, InvalidRequest, RecordNotFound
from pomerium_agent.records import Cursor, Record

COPY_SECONDS = 120.0  # to read all records of a type
FETCH = 500  # rows read at once from a result that may be large
MAX_VERSION = 2**63 - 1
SNAPSHOT = "begin isolation level repeatable read read only"
SERVER_VERSION = "select server_version from pomerium.migration_info limit 1"
COLUMNS = "type, id, version, data, modified_at"
IN_ORDER = 'order by type collate "C", id collate "C"'  # as Python sorts, whatever the database's language
PAGE = """
    select m.server_version, c.type, c.id, c.version, c.data, c.modified_at, c.deleted_at,
        coalesce((select min(version) from pomerium.record_changes), 0) as earliest
    from pomerium.migration_info m
    left join lateral (
        select * from pomerium.record_changes
        where version > $1 and version <= $2 and ($3 = '' or type = $3)
        order by version limit $4
    ) c on true
"""


class Page(NamedTuple):
    """Some changes, and what the log was like in the same moment."""

    server_version: int
    earliest: int
    changes: tuple[Record, ...]


class Reader:
    """The reading half of a backend."""

    def __init__(self, link: Link, tail: Tail) -> None:
        self._link = link
        self._tail = tail

    async def horizon(self) -> Horizon:
        """How far the log can be read now."""
        async with self._link.session() as connection:
            return await self._tail.advance(connection)

    async def get(self, type: str, id: str) -> Record:
        """One current record; one of a type unknown here is not found (C28)."""
        row = None
        if "\0" not in type + id:  # no record has such a name
            async with self._link.session() as connection:
                row = await connection.fetchrow(
                    f"select {COLUMNS} from pomerium.records where type = $1 and id = $2",  # noqa: S608
                    type,
                    id,
                )
        data = decode(row["data"]) if row is not None else None
        if row is None or data is None:
            raise RecordNotFound(f"there is no record {id!r} of type {type!r}")
        return Record(type=type, id=id, data=data, version=row["version"], modified_at=row["modified_at"])

    async def page(self, after: int, horizon: int, type: str) -> Page:
        """The next changes after a version, none beyond the horizon."""
        if "\0" in type:
            type = "\ufffd"  # no record has such a type; the state of the log is asked for all the same
        async with self._link.session() as connection:
            rows = await connection.fetch(PAGE, min(after, MAX_VERSION), horizon, type, PAGE_SIZE)
        if not rows:
            raise DatabrokerUnavailable("the database has no row in pomerium.migration_info")
        found = [row for row in rows if row["version"] is not None]
        changes = [record async for record in _records(found)]
        return Page(
            rows[0]["server_version"],
            rows[0]["earliest"],
            tuple(replace(c, deleted_at=row["deleted_at"]) for c, row in zip(changes, found, strict=True)),
        )

    async def latest(self, type: str) -> tuple[Cursor, tuple[Record, ...]]:
        """All current records, in one snapshot that is no older than the cursor."""
        conditions = Conditions()
        where = conditions.where(type, None) if "\0" not in type else "false"
        while True:
            horizon = await self.horizon()
            async with self._link.transaction(SNAPSHOT, COPY_SECONDS) as connection:
                if await connection.fetchval(SERVER_VERSION) != horizon.server_version:
                    continue  # cleared in between
                statement = f"select {COLUMNS} from pomerium.records where {where} {IN_ORDER}"  # noqa: S608
                rows = [row async for row in _rows(connection, statement, conditions.parameters)]
            return Cursor(horizon.server_version, horizon.version), tuple([r async for r in _records(rows)])

    async def query(self, type: str, text: str, filter: Mapping[str, object] | None, offset: int, limit: int) -> Found:
        """One page of matches; the database cuts it, unless text is looked for (V9)."""
        if offset < 0 or limit < 0:
            raise InvalidRequest(f"query: offset {offset} and limit {limit} must not be negative")
        conditions = Conditions()
        expression = parse_filter(filter)
        where = conditions.where(type, expression) if "\0" not in type else "false"
        while True:
            horizon = await self.horizon()
            async with self._link.transaction(SNAPSHOT, COPY_SECONDS) as connection:
                if await connection.fetchval(SERVER_VERSION) != horizon.server_version:
                    continue
                search = _search if text else _cut
                records, total = await search(connection, where, conditions.parameters, text, offset, limit)
            return Found(records, total, horizon.server_version, horizon.version)


async def _cut(
    connection: Connection, where: str, parameters: Sequence[object], _: str, offset: int, limit: int
) -> tuple[tuple[Record, ...], int]:
    total = await connection.fetchval(f"select count(*) from pomerium.records where {where}", *parameters)  # noqa: S608
    if not limit or offset >= total:
        return (), total
    statement = f"select {COLUMNS} from pomerium.records where {where} {IN_ORDER} offset {offset:d} limit "  # noqa: S608
    rows = [row async for row in _rows(connection, statement + str(min(limit, total)), parameters)]
    return tuple([record async for record in _records(rows)]), total


async def _search(
    connection: Connection, where: str, parameters: Sequence[object], text: str, offset: int, limit: int
) -> tuple[tuple[Record, ...], int]:
    """Every match of the filter is decoded and searched, and only the page is kept."""
    total = 0
    page: list[Record] = []
    statement = f"select {COLUMNS} from pomerium.records where {where} {IN_ORDER}"  # noqa: S608
    async for row in _rows(connection, statement, parameters):
        record = _record(row)
        if contains_text(record.data, text):
            if offset <= total < offset + limit:
                page.append(record)
            total += 1
    return tuple(page), total


async def _rows(connection: Connection, statement: str, parameters: Sequence[object]) -> AsyncIterator[asyncpg.Record]:
    async for row in connection.cursor(statement, *parameters, prefetch=FETCH):
        yield row


async def _records(rows: Sequence[asyncpg.Record]) -> AsyncIterator[Record]:
    """Decode, and let others have their turn: JSON is slow in Python."""
    for number, row in enumerate(rows, 1):
        yield _record(row) if len(row["data"] or "") < TEXT_IN_LOOP else await asyncio.to_thread(_record, row)
        if number % PAGE_SIZE == 0:
            await asyncio.sleep(0)


def _record(row: asyncpg.Record) -> Record:
    return Record(
        type=row["type"],
        id=row["id"],
        data=decode(row["data"]) or placeholder(row["id"]),
        version=row["version"],
        modified_at=row["modified_at"],
    )
