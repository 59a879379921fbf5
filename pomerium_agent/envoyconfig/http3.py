"""HTTP/3: the listener for QUIC beside the one for TCP, and the header that tells visitors of it (routes 7.6)."""

from google.protobuf.wrappers_pb2 import BoolValue

from pomerium_agent.config.snapshot import Settings
from pomerium_agent.envoyconfig.wire import any_of
from pomerium_agent.pb.envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from pomerium_agent.pb.envoy.config.core.v3 import base_pb2
from pomerium_agent.pb.envoy.config.listener.v3 import listener_pb2, udp_listener_config_pb2
from pomerium_agent.pb.envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from pomerium_agent.pb.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from pomerium_agent.pb.envoy.extensions.transport_sockets.quic.v3 import quic_transport_pb2
from pomerium_agent.pb.envoy.extensions.transport_sockets.tls.v3 import tls_pb2

ALT_SVC = "pomerium.alt_svc"
NO_CAPSULES = "pomerium.no_capsules"
_MAX_AGE = 86400  # seconds for which a visitor may remember where else to come


def build_alt_svc(settings: Settings) -> hcm_pb2.HttpFilter:
    """Says on every response where HTTP/3 is; what an upstream says of its own doors leads nowhere from outside."""
    port = settings.http3_advertise_port or settings.address.port
    mutation = mutation_rules_pb2.HeaderMutation(
        append=base_pb2.HeaderValueOption(
            header=base_pb2.HeaderValue(key="alt-svc", value=f'h3=":{port}"; ma={_MAX_AGE}'),
            append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
    )
    config = header_mutation_pb2.HeaderMutation(mutations=header_mutation_pb2.Mutations(response_mutations=[mutation]))
    return hcm_pb2.HttpFilter(name=ALT_SVC, typed_config=any_of(config))


def build_no_capsules() -> hcm_pb2.HttpFilter:
    """Takes off responses what would make Envoy read their bodies as datagrams of HTTP/3; see `connection_manager`."""
    mutations = header_mutation_pb2.Mutations(
        response_mutations=[mutation_rules_pb2.HeaderMutation(remove="capsule-protocol")]
    )
    config = header_mutation_pb2.HeaderMutation(mutations=mutations)
    return hcm_pb2.HttpFilter(name=NO_CAPSULES, typed_config=any_of(config))


def build_quic_tls(context: tls_pb2.DownstreamTlsContext) -> base_pb2.TransportSocket:
    """The TLS of QUIC.

    No early data: whoever records it can send it a second time, and what it asks for would be done twice.
    """
    return base_pb2.TransportSocket(
        name="envoy.transport_sockets.quic",
        typed_config=any_of(
            quic_transport_pb2.QuicDownstreamTransport(
                downstream_tls_context=context, enable_early_data=BoolValue(value=False)
            )
        ),
    )


def make_quic(listener: listener_pb2.Listener) -> None:
    """Turn a listener for TCP into one for UDP that speaks QUIC."""
    listener.udp_listener_config.CopyFrom(
        udp_listener_config_pb2.UdpListenerConfig(
            quic_options={},
            downstream_socket_config={"prefer_gro": BoolValue(value=True)},
        )
    )
    for address in (listener.address, *(each.address for each in listener.additional_addresses)):
        address.socket_address.protocol = address.socket_address.UDP
