"""Writing: one transaction for each request, in request order, and the wake-up call inside it (databroker 11.3).

Our writers take turns, first in this process and then across all of ours by a lock in the database, so that versions
commit in their order. Either the answer to `commit` came, and all is stored; or it did not, and the caller hears that
the store is out of reach: then it is all stored or nothing, and nothing is tried again here.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from pomerium_agent.databroker.backend import Written
from pomerium_agent.databroker.index import network_of
from pomerium_agent.databroker.options import BUILT_IN_OPTIONS
from pomerium_agent.databroker.patch import patch_payload
from pomerium_agent.databroker.postgres.encoding import TEXT_IN_LOOP, decode, encode, placeholder
from pomerium_agent.databroker.postgres.link import CALL_SECONDS, Connection, Link
from pomerium_agent.databroker.postgres.schema import apply_options, new_server_version
from pomerium_agent.errors import DatabrokerUnavailable, InvalidRequest
from pomerium_agent.records import Payload, Record
from pomerium_agent.runtime.clock import Clock

RETENTION = timedelta(hours=1)
WRITE_LOCK = 0x706F6D_777274  # "pom" "wrt"
# A writer that dies or hangs must not keep the others waiting: the server ends its transaction.
BEGIN = f"""
    begin isolation level read committed read write;
    set local lock_timeout = '20s';
    set local statement_timeout = '25s';
    set local idle_in_transaction_session_timeout = '5s';
    select pg_advisory_xact_lock({WRITE_LOCK});
"""
BEGIN_AND_NOTIFY = BEGIN + "notify pomerium_record_change;"
NOTIFY = "notify pomerium_record_change"
WRITE = """
    with change as (
        insert into pomerium.record_changes (type, id, data, modified_at, deleted_at)
        values ($1, $2, $3::jsonb, $4, $5)
        returning version
    ), stored as (
        insert into pomerium.records (type, id, version, data, modified_at, index_cidr)
        select $1, $2, version, $3::jsonb, $4, $6::text::inet from change where $5::timestamptz is null
        on conflict (type, id) do update set
            version = excluded.version, data = excluded.data,
            modified_at = excluded.modified_at, index_cidr = excluded.index_cidr
    ), gone as (
        delete from pomerium.records where type = $1 and id = $2 and $5::timestamptz is not null
    )
    select
        change.version,
        (select server_version from pomerium.migration_info limit 1) as server_version,
        (select capacity from pomerium.record_options where type = $1) as capacity
    from change
"""
# Both bury what they select, oldest first, with a tombstone without data, as the reference does (V5).
_BURY = """
    with doomed as (
        select type, id, version from pomerium.records where type = $1 and {which} for update skip locked
    ), tombstones as (
        insert into pomerium.record_changes (type, id, data, modified_at, deleted_at)
        select type, id, null, $3, $3 from doomed order by version
    )
    delete from pomerium.records r using doomed d where r.type = d.type and r.id = d.id
"""
BURY_BEYOND = _BURY.format(
    which="version <= (select version from pomerium.records where type = $1 order by version desc offset $2 limit 1)"
)
BURY_EXPIRED = _BURY.format(which="modified_at < $2")
# Only from the old end, whatever the clocks of the writers said: a log with a hole would hide changes from readers.
FORGET_CHANGES = """
    delete from pomerium.record_changes where version < coalesce(
        (select min(version) from pomerium.record_changes where modified_at >= $1),
        (select max(version) from pomerium.record_changes)
    )
"""
CLEAR = """
    lock table pomerium.record_changes in exclusive mode;
    delete from pomerium.record_changes;
    delete from pomerium.records;
    delete from pomerium.record_options;
    alter sequence pomerium.record_changes_version_seq restart;
    update pomerium.checkpoints set server_version = 0, record_version = 0;
"""


class Row(NamedTuple):
    """A record as it is written: its JSON, and what reading that will yield."""

    record: Record
    data: str | None
    network: str | None


class Writer:
    """The writing half of a backend."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._turn = asyncio.Lock()  # those who wait here wait without a connection, so that readers have some

    @asynccontextmanager
    async def _writing(self, begin: str = BEGIN_AND_NOTIFY) -> AsyncIterator[Connection]:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self._turn.acquire()
        except TimeoutError:
            raise DatabrokerUnavailable("other writes to the database take too long") from None
        try:
            async with self._link.transaction(begin) as connection:
                yield connection
        finally:
            self._turn.release()

    async def put(self, records: Sequence[Record]) -> Written:
        """Write all or none (V4); then enforce the capacity of each type touched."""
        rows = await _rows(records)
        async with self._writing() as connection:
            return await self._store(connection, rows)

    async def patch(self, records: Sequence[Record], fields: Sequence[str]) -> Written:
        """Copy the named fields over what is stored; records that are not there are left out."""
        async with self._writing() as connection:
            found = await connection.fetch(
                "select r.type, r.id, r.data from pomerium.records r "
                "join unnest($1::text[], $2::text[]) as wanted (type, id) using (type, id) "
                "order by r.type, r.id for update of r",
                [record.type for record in records],
                [record.id for record in records],
            )
            stored = {(row["type"], row["id"]): decode(row["data"]) or placeholder(row["id"]) for row in found}
            patched: list[Record] = []
            for record in records:
                key = (record.type, record.id)
                if key in stored:
                    stored[key] = patch_payload(stored[key], record.data, fields)
                    patched.append(replace(record, data=stored[key], deleted_at=None))
            return await self._store(connection, await _rows(patched))

    async def _store(self, connection: Connection, rows: Sequence[Row]) -> Written:
        if not rows:
            version = await connection.fetchval("select server_version from pomerium.migration_info limit 1")
            return Written(version, ())
        now = self._clock.now()
        answers = await connection.fetchmany(
            WRITE, [(r.type, r.id, data, now, now if r.deleted else None, network) for r, data, network in rows]
        )
        capacities = {row.record.type: answer["capacity"] for row, answer in zip(rows, answers, strict=True)}
        for type, capacity in capacities.items():
            if capacity is not None:
                await connection.execute(BURY_BEYOND, type, capacity, now)
        stored = tuple(
            replace(
                row.record, version=answer["version"], modified_at=now, deleted_at=now if row.record.deleted else None
            )
            for row, answer in zip(rows, answers, strict=True)
        )
        return Written(answers[-1]["server_version"], stored)

    async def clear(self) -> tuple[int, int]:
        """A new data set: nothing in it but the built-in options, and versions from 1 (V3, V14)."""
        async with self._writing() as connection:
            old = await connection.fetchval("select server_version from pomerium.migration_info for update")
            new = new_server_version()
            while new == old:
                new = new_server_version()
            await connection.execute(CLEAR)
            await connection.execute("update pomerium.migration_info set server_version = $1", new)
            await apply_options(connection, BUILT_IN_OPTIONS)
            return int(old), new

    async def clean_up(self) -> None:
        """Forget old changes, delete expired records; readers are told only if there was one (D-17, C18)."""
        now = self._clock.now()
        async with self._writing(BEGIN) as connection:
            await connection.execute(FORGET_CHANGES, now - RETENTION)
            limits = await connection.fetch("select type, ttl from pomerium.record_options where ttl is not null")
            expired = [await self._expire(connection, row["type"], row["ttl"], now) for row in limits]
            if any(expired):
                await connection.execute(NOTIFY)

    async def _expire(self, connection: Connection, type: str, nanoseconds: int, now: datetime) -> bool:
        ttl = timedelta(microseconds=nanoseconds // 1000)
        if ttl > now - datetime.min.replace(tzinfo=now.tzinfo):
            return False
        return await connection.execute(BURY_EXPIRED, type, now - ttl, now) != "DELETE 0"


async def _rows(records: Sequence[Record]) -> list[Row]:
    """Encode what is to be written. JSON is slow in Python, so much of it is made beside the event loop."""
    if sum(len(record.data.value) for record in records if record.data is not None) < TEXT_IN_LOOP:
        return [_row(record) for record in records]
    return await asyncio.to_thread(lambda: [_row(record) for record in records])


def _row(record: Record) -> Row:
    for name, text in (("type", record.type), ("id", record.id)):
        if "\0" in text:
            raise InvalidRequest(f"the {name} of a record contains the character U+0000, which cannot be stored")
    if record.data is None:
        if not record.deleted:
            raise InvalidRequest(f"record {record.id!r} of type {record.type!r} has no data, so it cannot be stored")
        return Row(replace(record, data=placeholder(record.id)), None, None)
    data = encode(record.data)
    network = network_of(record.data)
    as_read: Payload = decode(data) or placeholder(record.id)
    return Row(replace(record, data=as_read), data, str(network) if network is not None else None)
