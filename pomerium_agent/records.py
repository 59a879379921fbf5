"""Record and Cursor: the envelope everything travels in, from a bundle to the databroker and out again."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message

from pomerium_agent.pb.pomerium import databroker_pb2

TYPE_URL_PREFIX = "type.googleapis.com/"
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Payload:
    """A message as it travels: the URL of its type, and its bytes, kept exactly as they came."""

    type_url: str = ""
    value: bytes = b""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the change log: which data set, and the last version seen of it (databroker 4)."""

    server_version: int
    record_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record at one version (databroker 3). `data` is opaque to every backend; None is an absent Any."""

    type: str
    id: str
    data: Payload | None = None
    version: int = 0
    modified_at: datetime | None = None
    deleted_at: datetime | None = None

    @property
    def deleted(self) -> bool:
        """Whether this is a tombstone."""
        return self.deleted_at is not None

    def as_deleted(self, at: datetime) -> "Record":
        """The same record as a tombstone of time `at` (timezone-aware)."""
        return replace(self, deleted_at=at)


def type_url(message: type[Message]) -> str:
    """The record type of a message: `type.googleapis.com/<full name>`."""
    return TYPE_URL_PREFIX + message.DESCRIPTOR.full_name


def pack(message: Message) -> Payload:
    """A message as a payload, in deterministic bytes."""
    return Payload(type_url(type(message)), message.SerializeToString(deterministic=True))


def unpack(payload: Payload | None, into: type[M]) -> M | None:
    """The payload as a message of type `into`; None when it is of another type or cannot be decoded."""
    if payload is None or payload.type_url.rpartition("/")[2] != into.DESCRIPTOR.full_name:
        return None
    message = into()
    try:
        message.ParseFromString(payload.value)
    except DecodeError:
        return None
    return message


def record_to_message(record: Record) -> databroker_pb2.Record:
    """The record as the databroker's wire message."""
    message = databroker_pb2.Record(version=record.version, type=record.type, id=record.id)
    if record.data is not None:
        message.data.CopyFrom(AnyMessage(type_url=record.data.type_url, value=record.data.value))
    if record.modified_at is not None:
        message.modified_at.FromDatetime(record.modified_at)
    if record.deleted_at is not None:
        message.deleted_at.FromDatetime(record.deleted_at)
    return message


def record_from_message(message: databroker_pb2.Record) -> Record:
    """The wire message as a record; nanoseconds are cut to microseconds, as PostgreSQL does."""
    return Record(
        type=message.type,
        id=message.id,
        data=Payload(message.data.type_url, message.data.value) if message.HasField("data") else None,
        version=message.version,
        modified_at=message.modified_at.ToDatetime(UTC) if message.HasField("modified_at") else None,
        deleted_at=message.deleted_at.ToDatetime(UTC) if message.HasField("deleted_at") else None,
    )
