"""Options as rows: capacity, fields and ttl, the last in nanoseconds (databroker 11.2; D-33)."""

from datetime import timedelta

from asyncpg import Connection, Record

from pomerium_agent.databroker.backend import Options
from pomerium_agent.errors import InvalidRequest

NO_OPTIONS = Options()
MICROSECOND = timedelta(microseconds=1)
MAX_BIGINT = 2**63 - 1
_UPSERT = """
    insert into pomerium.record_options (type, capacity, fields, ttl) values ($1, $2, $3, $4)
    on conflict (type) do update set capacity = excluded.capacity, fields = excluded.fields, ttl = excluded.ttl
"""


async def store_options(connection: "Connection[Record]", type: str, options: Options) -> None:
    """Replace the options of a type; empty options remove the row."""
    if options == NO_OPTIONS:
        await connection.execute("delete from pomerium.record_options where type = $1", type)
        return
    ttl = None if options.ttl is None else options.ttl // MICROSECOND * 1000
    for name, number in (("capacity", options.capacity), ("ttl", ttl)):
        if number is not None and number > MAX_BIGINT:
            raise InvalidRequest(f"options of {type}: the {name} is larger than the database can hold")
    fields = list(options.indexable_fields) or None
    await connection.execute(_UPSERT, type, options.capacity, fields, ttl)


def options_from_row(row: Record) -> Options:
    """The options in a row of `record_options`."""
    capacity, fields, ttl = row["capacity"], row["fields"], row["ttl"]
    return Options(
        capacity=capacity,
        indexable_fields=tuple(fields or ()),
        ttl=None if ttl is None else timedelta(microseconds=ttl // 1000),
    )
