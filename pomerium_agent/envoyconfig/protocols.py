"""Which HTTP an upstream is spoken to in, and with which limits (routes 9.2)."""

from google.protobuf.wrappers_pb2 import UInt32Value

from pomerium_agent.config.action import Transport, Upstream
from pomerium_agent.envoyconfig.wire import any_of
from pomerium_agent.pb.envoy.config.core.v3 import extension_pb2, protocol_pb2
from pomerium_agent.pb.envoy.extensions.http.header_formatters.preserve_case.v3 import preserve_case_pb2
from pomerium_agent.pb.envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def explicit_http1(upstream: Upstream) -> bool:
    """Whether nothing but HTTP/1.1 will do: plain or mixed upstreams, and those that carry websockets."""
    return upstream.http1_only or not all(endpoint.tls for endpoint in upstream.endpoints)


def build_protocols(upstream: Upstream) -> http_protocol_options_pb2.HttpProtocolOptions:
    """The protocol of an upstream: as TLS negotiates it, or the one that is known beforehand."""
    options = http_protocol_options_pb2.HttpProtocolOptions()
    if all(endpoint.transport is Transport.H2C for endpoint in upstream.endpoints):
        options.explicit_http_config.http2_protocol_options.CopyFrom(build_http2())
    elif explicit_http1(upstream):
        options.explicit_http_config.http_protocol_options.CopyFrom(build_http1())
    else:
        options.auto_config.http_protocol_options.CopyFrom(build_http1())
        options.auto_config.http2_protocol_options.CopyFrom(build_http2())
    return options


def build_http1() -> protocol_pb2.Http1ProtocolOptions:
    """HTTP/1 that keeps header names as they were spelled."""
    return protocol_pb2.Http1ProtocolOptions(
        header_key_format=protocol_pb2.Http1ProtocolOptions.HeaderKeyFormat(
            stateful_formatter=extension_pb2.TypedExtensionConfig(
                name="preserve_case", typed_config=any_of(preserve_case_pb2.PreserveCaseFormatterConfig())
            )
        )
    )


def build_http2() -> protocol_pb2.Http2ProtocolOptions:
    """HTTP/2 with the windows of Pomerium."""
    return protocol_pb2.Http2ProtocolOptions(
        allow_connect=True,
        max_concurrent_streams=UInt32Value(value=100),
        initial_stream_window_size=UInt32Value(value=65536),
        initial_connection_window_size=UInt32Value(value=1048576),
    )
