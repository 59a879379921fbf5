"""The HTTP connection managers: the one visitors meet (routes 7.3, R-14), and the one that sends them to HTTPS."""

from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from pomerium_agent.config.snapshot import Codec, Settings
from pomerium_agent.envoyconfig.access_log import build_access_log
from pomerium_agent.envoyconfig.client_certificates import Asking
from pomerium_agent.envoyconfig.filters import build_early_mutation, build_filters, build_router
from pomerium_agent.envoyconfig.http3 import build_alt_svc, build_no_capsules
from pomerium_agent.envoyconfig.local import LocalAddresses
from pomerium_agent.envoyconfig.local_replies import build_local_replies
from pomerium_agent.envoyconfig.protocols import build_http1
from pomerium_agent.envoyconfig.route_table import MAIN_ROUTES
from pomerium_agent.envoyconfig.tracing import build_tracing
from pomerium_agent.envoyconfig.wire import any_of, by_ads, duration
from pomerium_agent.pb.envoy.config.core.v3 import address_pb2, protocol_pb2
from pomerium_agent.pb.envoy.config.listener.v3 import listener_components_pb2
from pomerium_agent.pb.envoy.config.route.v3 import route_components_pb2, route_pb2
from pomerium_agent.pb.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)

_Hcm = hcm_pb2.HttpConnectionManager
_CODECS = {
    Codec.AUTO: _Hcm.AUTO,
    Codec.HTTP1: _Hcm.HTTP1,
    Codec.HTTP2: _Hcm.HTTP2,
    Codec.HTTP3: _Hcm.AUTO,  # over TCP; QUIC is a listener of its own
}
_INTERNAL = (("127.0.0.1", 32), ("10.0.0.0", 8), ("192.168.0.0", 16), ("172.16.0.0", 12))
_INTERNAL_IPV6 = (("::1", 128), ("fd00::", 8))


class Door(NamedTuple):
    """What a listener for visitors is, beyond what the settings say."""

    asked: Asking = Asking.NOT  # for client certificates
    quic: bool = False
    http3: bool = False  # there is one for QUIC, of which the others tell
    extended_connect: bool = False  # over HTTP/2: UDP tunnels are opened by it


TCP_DOOR = Door()


def build_main(settings: Settings, local: LocalAddresses, door: Door = TCP_DOOR) -> listener_components_pb2.Filter:
    """Values are those of routes 7.3, exactly; routes come over ADS and never touch the listener."""
    common = protocol_pb2.HttpProtocolOptions(
        headers_with_underscores_action=settings.underscores.value,
        idle_timeout=duration(settings.timeout_idle),
        max_headers_count=UInt32Value(value=1000),
        max_stream_duration=duration(settings.timeout_write) if settings.timeout_write > timedelta(0) else None,
    )
    internal = _INTERNAL + (_INTERNAL_IPV6 if local.ipv6 else ())
    return network_filter(
        _Hcm(
            stat_prefix="ingress",
            codec_type=_Hcm.HTTP3 if door.quic else _CODECS[settings.codec],
            rds=hcm_pb2.Rds(config_source=by_ads(), route_config_name=MAIN_ROUTES),
            http_filters=build_filters(settings, door.asked, *_beside(settings, door)),
            early_header_mutation_extensions=[build_early_mutation()],
            access_log=build_access_log(settings),
            local_reply_config=build_local_replies(settings),
            http_protocol_options=build_http1(),
            # Otherwise as Envoy has it; this also lets browsers open websockets over HTTP/2.
            http2_protocol_options=(
                protocol_pb2.Http2ProtocolOptions(allow_connect=True)
                if door.extended_connect and not door.quic
                else None
            ),
            # Unlike routes 7.3: a datagram that goes back by CONNECT-UDP to a client which takes none over HTTP/3
            # ends the process of Envoy 1.40. Without extended CONNECT Envoy hangs up on those who ask for it.
            http3_protocol_options=(
                protocol_pb2.Http3ProtocolOptions(allow_extended_connect=False) if door.quic else None
            ),
            common_http_protocol_options=common,
            max_request_headers_kb=UInt32Value(value=128),
            request_timeout=duration(settings.timeout_read),
            use_remote_address=BoolValue(value=True),
            skip_xff_append=settings.skip_xff_append,
            xff_num_trusted_hops=settings.xff_trusted_hops,
            internal_address_config=_Hcm.InternalAddressConfig(
                cidr_ranges=[
                    address_pb2.CidrRange(address_prefix=prefix, prefix_len=UInt32Value(value=length))
                    for prefix, length in internal
                ]
            ),
            normalize_path=BoolValue(value=settings.normalize_path),
            merge_slashes=settings.merge_slashes,
            path_with_escaped_slashes_action=settings.escaped_slashes.value,
            always_set_request_id_in_response=True,
            tracing=build_tracing(settings.tracing),
        )
    )


def _beside(settings: Settings, door: Door) -> Iterator[hcm_pb2.HttpFilter]:
    if door.quic:
        yield build_no_capsules()
    elif door.http3:
        yield build_alt_svc(settings)


def build_redirect() -> listener_components_pb2.Filter:
    """Every plain HTTP request goes to the same host and path over HTTPS (R-25)."""
    away = route_components_pb2.Route(
        match=route_components_pb2.RouteMatch(prefix="/"),
        redirect=route_components_pb2.RedirectAction(https_redirect=True),
    )
    everything = route_components_pb2.VirtualHost(name="redirect", domains=["*"], routes=[away])
    return network_filter(
        _Hcm(
            stat_prefix="redirect",
            route_config=route_pb2.RouteConfiguration(name="redirect", virtual_hosts=[everything]),
            http_filters=[build_router()],
            strip_any_host_port=True,
            use_remote_address=BoolValue(value=True),
            request_timeout=duration(timedelta(seconds=30)),
            common_http_protocol_options=protocol_pb2.HttpProtocolOptions(idle_timeout=duration(timedelta(seconds=60))),
        )
    )


def network_filter(manager: hcm_pb2.HttpConnectionManager) -> listener_components_pb2.Filter:
    """A connection manager as a filter chain has it."""
    return listener_components_pb2.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=any_of(manager)
    )
