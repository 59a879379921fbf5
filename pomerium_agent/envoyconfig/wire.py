"""The protobuf shapes that every Envoy concept needs: Any, Duration, addresses, and splicing by hand."""

from datetime import timedelta

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from pomerium_agent.pb.envoy.config.core.v3 import address_pb2, base_pb2, config_source_pb2
from pomerium_agent.records import TYPE_URL_PREFIX


def any_of(message: Message) -> AnyMessage:
    """The message inside an Any; deterministic, since versions are hashes of bytes."""
    return AnyMessage(
        type_url=TYPE_URL_PREFIX + message.DESCRIPTOR.full_name, value=message.SerializeToString(deterministic=True)
    )


def duration(value: timedelta) -> Duration:
    """The same length of time for Envoy."""
    message = Duration()
    message.FromTimedelta(value)
    return message


def socket_address(host: str, port: int) -> address_pb2.Address:
    """A TCP address."""
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=host, port_value=port))


def pipe_address(path: str) -> address_pb2.Address:
    """A unix socket."""
    return address_pb2.Address(pipe=address_pb2.Pipe(path=path))


def text(value: str) -> base_pb2.DataSource:
    """Data that travels inline."""
    return base_pb2.DataSource(inline_string=value)


def by_ads() -> config_source_pb2.ConfigSource:
    """Says that a resource comes over the one ADS stream."""
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.V3
    )


def field_bytes(number: int, body: bytes) -> bytes:
    """One length-delimited field as it stands inside a serialised message: tag, length, body.

    Serialised messages may be concatenated, so kept bytes of one virtual host and of one route are spliced
    into their parents without building them again (envoy.md 4.1).
    """
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
