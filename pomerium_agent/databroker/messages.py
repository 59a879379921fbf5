"""From a payload to the message inside it, for every type that Pomerium stores (databroker 13 and 15, D-44)."""

from google.protobuf import (
    any_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.message import DecodeError, Message

from pomerium_agent.pb.pomerium import (
    config_pb2,
    device_pb2,
    events_pb2,
    oauth21_pb2,
    rfc7591_pb2,
    session_pb2,
    user_pb2,
)
from pomerium_agent.records import Payload

# A message can be looked up by name once the module that defines it was imported; these define all that is stored.
STORED_IN = (
    any_pb2,
    config_pb2,
    device_pb2,
    duration_pb2,
    empty_pb2,
    events_pb2,
    field_mask_pb2,
    oauth21_pb2,
    rfc7591_pb2,
    session_pb2,
    struct_pb2,
    timestamp_pb2,
    user_pb2,
    wrappers_pb2,
)


def message_class(type_url: str) -> type[Message] | None:
    """The class of messages with this type URL; None for a type this process does not know."""
    try:
        descriptor = descriptor_pool.Default().FindMessageTypeByName(type_url.rpartition("/")[2])
    except KeyError:
        return None
    return message_factory.GetMessageClass(descriptor)


def decode(payload: Payload | None) -> Message | None:
    """The message inside a payload; None when there is none, its type is unknown, or its bytes are no such message."""
    if payload is None:
        return None
    cls = message_class(payload.type_url)
    if cls is None:
        return None
    message = cls()
    try:
        message.ParseFromString(payload.value)
    except DecodeError:
        return None
    return message
