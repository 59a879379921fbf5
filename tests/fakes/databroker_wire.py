"""A databroker client of nobody's making: its messages are built from the tables of the specification, not from ours.

A name, then `number name type` for each field; marks before a type as in the specification: `?` optional with
presence, `*` repeated, `|` member of the message's oneof, `map<key,value>`.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
)
from google.protobuf.message import Message

DATABROKER = """
Record: 1 version u64; 2 type str; 3 id str; 4 data Any; 5 modified_at Timestamp; 6 deleted_at Timestamp
Versions: 1 server_version u64; 2 latest_record_version u64
Options: 1 capacity ?u64; 2 indexable_fields *str; 3 ttl ?Duration
TypedOptions: 1 typeURL str; 2 options Options
ClearResponse: 1 old_server_version u64; 2 new_server_version u64
GetRequest: 1 type str; 2 id str
GetResponse: 1 record Record
ListTypesResponse: 1 types *str
QueryRequest: 1 type str; 2 query str; 3 offset i64; 4 limit i64; 5 filter Struct; 6 minimum_record_version_hint ?u64
QueryResponse: 1 records *Record; 2 total_count i64; 3 server_version u64; 4 record_version u64
PutRequest: 1 records *Record
PutResponse: 1 server_version u64; 2 records *Record
PatchRequest: 1 records *Record; 2 field_mask FieldMask
PatchResponse: 1 server_version u64; 2 records *Record
ServerInfoResponse: 1 server_version u64; 2 earliest_record_version u64; 3 latest_record_version u64
GetOptionsRequest: 1 type str
GetOptionsResponse: 1 options Options
SetOptionsRequest: 1 type str; 2 options Options
SetOptionsResponse: 1 options Options
SyncRequest: 1 server_version u64; 2 record_version u64; 3 type str; 4 wait ?bool
SyncResponse: 1 record |Record; 2 options |TypedOptions
SyncLatestRequest: 1 type str
SyncLatestResponse: 1 record |Record; 2 versions |Versions; 3 options |TypedOptions
AcquireLeaseRequest: 1 name str; 2 duration Duration
AcquireLeaseResponse: 1 id str
ReleaseLeaseRequest: 1 name str; 2 id str
RenewLeaseRequest: 1 name str; 2 id str; 3 duration Duration
Checkpoint: 1 server_version u64; 2 record_version u64
GetCheckpointRequest:
GetCheckpointResponse: 1 checkpoint Checkpoint; 2 is_leader bool
SetCheckpointRequest: 1 checkpoint Checkpoint
SetCheckpointResponse:
"""
REGISTRY = """
Service: 1 kind enum; 3 endpoint str
RegisterRequest: 1 services *Service; 2 metadata map<str,Any>
RegisterResponse: 2 call_back_after Duration
ListRequest: 1 kinds *enum
ServiceList: 1 services *Service
"""
METHODS = """
databroker.DataBrokerService AcquireLease AcquireLeaseRequest AcquireLeaseResponse
databroker.DataBrokerService Clear Empty ClearResponse
databroker.DataBrokerService Get GetRequest GetResponse
databroker.DataBrokerService GetOptions GetOptionsRequest GetOptionsResponse
databroker.DataBrokerService ListTypes Empty ListTypesResponse
databroker.DataBrokerService Put PutRequest PutResponse
databroker.DataBrokerService Patch PatchRequest PatchResponse
databroker.DataBrokerService Query QueryRequest QueryResponse
databroker.DataBrokerService ReleaseLease ReleaseLeaseRequest Empty
databroker.DataBrokerService RenewLease RenewLeaseRequest Empty
databroker.DataBrokerService ServerInfo Empty ServerInfoResponse
databroker.DataBrokerService SetOptions SetOptionsRequest SetOptionsResponse
databroker.DataBrokerService Sync SyncRequest stream SyncResponse
databroker.DataBrokerService SyncLatest SyncLatestRequest stream SyncLatestResponse
databroker.CheckpointService GetCheckpoint GetCheckpointRequest GetCheckpointResponse
databroker.CheckpointService SetCheckpoint SetCheckpointRequest SetCheckpointResponse
registry.Registry Report RegisterRequest RegisterResponse
registry.Registry List ListRequest ServiceList
registry.Registry Watch ListRequest stream ServiceList
"""
Field = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    "u64": Field.TYPE_UINT64,
    "i64": Field.TYPE_INT64,
    "str": Field.TYPE_STRING,
    "bool": Field.TYPE_BOOL,
    "enum": Field.TYPE_INT32,  # the same bytes
}
GIVEN = {
    module.DESCRIPTOR.name: module
    for module in (any_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2)
}
GIVEN_NAMES = ("Any", "Duration", "Empty", "FieldMask", "Struct", "Timestamp")


def _file(package: str, table: str) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"spec/{package}.proto", package=package, syntax="proto3", dependency=sorted(GIVEN)
    )
    for line in table.strip().splitlines():
        name, _, fields = line.partition(":")
        message = file.message_type.add(name=name)
        for text in filter(None, (field.strip() for field in fields.split(";"))):
            number, field_name, kind = text.split(" ")
            _add_field(message, package, int(number), field_name, kind)
        for field in message.field:  # proto3 says presence with a oneof of one, after all others
            if field.proto3_optional:
                field.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field.name}")
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, package: str, number: int, name: str, kind: str) -> None:
    if kind.startswith("map<"):
        key, value = kind[4:-1].split(",")
        entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        _add_field(entry, package, 1, "key", key)
        _add_field(entry, package, 2, "value", value)
        entry_type = f".{package}.{message.name}.{entry.name}"
        message.field.add(
            name=name, number=number, label=Field.LABEL_REPEATED, type=Field.TYPE_MESSAGE, type_name=entry_type
        )
        return
    mark, kind = (kind[0], kind[1:]) if kind[0] in "?*|" else ("", kind)
    field = message.field.add(name=name, number=number)
    field.label = Field.LABEL_REPEATED if mark == "*" else Field.LABEL_OPTIONAL
    if kind in SCALARS:
        field.type = SCALARS[kind]
    else:
        field.type = Field.TYPE_MESSAGE
        field.type_name = f".google.protobuf.{kind}" if kind in GIVEN_NAMES else f".{package}.{kind}"
    if mark == "|":
        if not message.oneof_decl:
            message.oneof_decl.add(name="response")
        field.oneof_index = 0
    field.proto3_optional = mark == "?"


def _build_pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for name in sorted(GIVEN):
        message = descriptor_pb2.FileDescriptorProto()
        GIVEN[name].DESCRIPTOR.CopyToProto(message)
        pool.AddSerializedFile(message.SerializeToString())
    pool.AddSerializedFile(_file("databroker", DATABROKER).SerializeToString())
    pool.AddSerializedFile(_file("registry", REGISTRY).SerializeToString())
    return pool


POOL = _build_pool()


def message(package: str, name: str, /, **fields: Any) -> Any:
    """A new message of `databroker` or `registry`, with its fields."""
    return cls(package, name)(**fields)


def cls(package: str, name: str) -> type[Message]:
    full = f"google.protobuf.{name}" if name in GIVEN_NAMES else f"{package}.{name}"
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full))


class WireClient:
    """Calls by the names of the specification. `token` makes what goes into the metadata of each call; "" is none."""

    def __init__(self, channel: grpc.aio.Channel, token: Callable[[], str]) -> None:
        self.channel = channel
        self._token = token
        self._methods: dict[str, tuple[Any, type[Message]]] = {}
        for line in METHODS.strip().splitlines():
            service, method, request, *stream, response = line.split()
            package = service.partition(".")[0]
            make = channel.unary_stream if stream else channel.unary_unary
            call: Any = make(
                f"/{service}/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=cls(package, response).FromString,
            )
            name = f"{service.rpartition('.')[2]}.{method}" if package == "registry" else method
            self._methods[name] = (call, cls(package, request))

    def call(self, method: str, /, **fields: Any) -> Any:
        """Begin the call; await it, or iterate over it."""
        multicallable, request = self._methods[method]
        return multicallable(request(**fields), metadata=self.metadata(), timeout=30)

    def stub(self, make: Any) -> Any:
        """A generated client on the same connection, without a token."""
        return make(self.channel)

    def within(self, seconds: float, method: str, /, **fields: Any) -> Any:
        """The same, with that deadline."""
        multicallable, request = self._methods[method]
        return multicallable(request(**fields), metadata=self.metadata(), timeout=seconds)

    def wait_for(self, method: str, /, **fields: Any) -> Any:
        """The same, but wait until somebody answers at all."""
        multicallable, request = self._methods[method]
        return multicallable(request(**fields), metadata=self.metadata(), timeout=30, wait_for_ready=True)

    def send(self, method: str, request: Any) -> Any:
        """The same with a message that is made already."""
        return self._methods[method][0](request, metadata=self.metadata(), timeout=30)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        token = self._token()
        return (("jwt", token),) if token else ()


@asynccontextmanager
async def wire_client(
    target: str,
    token: Callable[[], str],
    *,
    credentials: grpc.ChannelCredentials | None = None,
    options: Mapping[str, Any] | None = None,
) -> AsyncIterator[WireClient]:
    """A client on a connection of its own."""
    chosen = [("grpc.use_local_subchannel_pool", 1), *(options or {}).items()]
    channel = (
        grpc.aio.secure_channel(target, credentials, options=chosen)
        if credentials
        else grpc.aio.insecure_channel(target, options=chosen)
    )
    async with channel:
        yield WireClient(channel, token)
