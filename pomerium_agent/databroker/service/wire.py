"""Between the messages of the wire and the values that a Backend speaks in (databroker 3)."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from pomerium_agent.databroker.backend import Options
from pomerium_agent.errors import InvalidRequest
from pomerium_agent.pb.pomerium import databroker_pb2 as pb
from pomerium_agent.records import Payload, Record

LONGEST_SECONDS = 315_576_000_000  # of a Duration, by its definition
NANOSECONDS = 10**9


def records_of(messages: Iterable[pb.Record]) -> list[Record]:
    """What a client wants written; its versions and times of change are ignored (D-11)."""
    return [
        Record(
            type=message.type,
            id=message.id,
            data=Payload(message.data.type_url, message.data.value) if message.HasField("data") else None,
            deleted_at=time_of(message.deleted_at) if message.HasField("deleted_at") else None,
        )
        for message in messages
    ]


def time_of(stamp: Timestamp) -> datetime:
    """The time, cut to microseconds. Raises InvalidRequest for one that is not between the years 1 and 9999."""
    try:
        return stamp.ToDatetime(UTC)
    except (ValueError, OverflowError):
        raise InvalidRequest("a time of a record is not between the years 1 and 9999") from None


def duration_of(duration: Duration) -> timedelta:
    """The duration, cut to microseconds. Raises InvalidRequest for one that is none by its definition."""
    seconds, nanos = duration.seconds, duration.nanos
    if abs(seconds) > LONGEST_SECONDS or abs(nanos) >= NANOSECONDS or seconds * nanos < 0:
        raise InvalidRequest("a duration is not between ten thousand years and as many backwards")
    return timedelta(seconds=seconds, microseconds=int(nanos / 1000))


def options_of(message: pb.Options) -> Options:
    """The options that a client wants for a type."""
    return Options(
        capacity=message.capacity if message.HasField("capacity") else None,
        indexable_fields=tuple(message.indexable_fields),
        ttl=duration_of(message.ttl) if message.HasField("ttl") else None,
    )


def options_message(options: Options | None) -> pb.Options:
    """The options as their message; none are an empty one."""
    message = pb.Options()
    if options is not None:
        if options.capacity is not None:
            message.capacity = options.capacity
        message.indexable_fields.extend(options.indexable_fields)
        if options.ttl is not None:
            message.ttl.FromTimedelta(options.ttl)
    return message


def filter_of(message: Struct) -> dict[str, object]:
    """The filter of a query as plain values."""
    return {key: _plain(value) for key, value in message.fields.items()}


def _plain(value: Value) -> object:
    """How deep it goes is bounded by the parser of protobuf, which refuses more than a hundred levels."""
    match value.WhichOneof("kind"):
        case "bool_value":
            return value.bool_value
        case "number_value":
            return value.number_value
        case "string_value":
            return value.string_value
        case "list_value":
            return [_plain(item) for item in value.list_value.values]
        case "struct_value":
            return filter_of(value.struct_value)
        case _:
            return None
