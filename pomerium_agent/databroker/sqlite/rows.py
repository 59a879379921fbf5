"""Records and options as rows of the file, and back."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from pomerium_agent.databroker.backend import Options
from pomerium_agent.records import Payload, Record

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
RECORD_COLUMNS = "version, type, id, data_type, data, modified_at"
CHANGE_COLUMNS = f"{RECORD_COLUMNS}, deleted_at"

Value = str | int | float | bytes | None


def to_micros(time: datetime) -> int:
    return (time - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    return EPOCH + timedelta(microseconds=micros)


def to_row(record: Record) -> tuple[Value, ...]:
    """The values of CHANGE_COLUMNS."""
    if record.modified_at is None:
        raise ValueError(f"{record.type} {record.id} has no time")
    return (
        record.version,
        record.type,
        record.id,
        record.data.type_url if record.data is not None else None,
        record.data.value if record.data is not None else None,
        to_micros(record.modified_at),
        to_micros(record.deleted_at) if record.deleted_at is not None else None,
    )


def to_record(row: Sequence[object]) -> Record:
    """From a row of RECORD_COLUMNS or CHANGE_COLUMNS."""
    version, type, id, data_type, data, modified_at, *deleted = row
    assert isinstance(version, int) and isinstance(modified_at, int)  # noqa: S101, PT018  # the schema says so
    deleted_at = deleted[0] if deleted else None
    return Record(
        version=version,
        type=str(type),
        id=str(id),
        data=Payload(data_type, data) if isinstance(data_type, str) and isinstance(data, bytes) else None,
        modified_at=from_micros(modified_at),
        deleted_at=from_micros(deleted_at) if isinstance(deleted_at, int) else None,
    )


def dump_options(options: Options) -> str:
    ttl = options.ttl // MICROSECOND if options.ttl is not None else None
    return json.dumps({"capacity": options.capacity, "fields": list(options.indexable_fields), "ttl_us": ttl})


def load_options(text: str) -> Options:
    found = json.loads(text)
    ttl = found["ttl_us"]
    return Options(
        capacity=found["capacity"],
        indexable_fields=tuple(found["fields"]),
        ttl=timedelta(microseconds=ttl) if ttl is not None else None,
    )
