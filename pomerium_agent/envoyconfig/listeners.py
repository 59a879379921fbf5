"""The doors: HTTPS (or plain HTTP where an operator insists), and the one that sends plain HTTP to HTTPS (routes 7)."""

import ipaddress
from dataclasses import replace

from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from pomerium_agent.config.http3 import quic_positions
from pomerium_agent.config.snapshot import Address, Settings
from pomerium_agent.envoyconfig.admin_listener import build_admin
from pomerium_agent.envoyconfig.connection_manager import TCP_DOOR, Door, build_main, build_redirect
from pomerium_agent.envoyconfig.downstream_tls import build_downstream_tls, build_tls_context
from pomerium_agent.envoyconfig.http3 import build_quic_tls, make_quic
from pomerium_agent.envoyconfig.local import LocalAddresses
from pomerium_agent.envoyconfig.metrics import build_metrics, build_metrics_tls
from pomerium_agent.envoyconfig.wire import any_of, socket_address
from pomerium_agent.pb.envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from pomerium_agent.pb.envoy.extensions.filters.listener.proxy_protocol.v3 import proxy_protocol_pb2
from pomerium_agent.pb.envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2

HTTPS = "https-ingress"
HTTP = "http-ingress"
QUIC = "quic-ingress"
REDIRECT = "http-redirect"
METRICS = "metrics-ingress"
ADMIN = "envoy-admin"
BESIDE = frozenset((REDIRECT, QUIC, ADMIN, METRICS))  # without which visitors are served all the same
_BUFFER_LIMIT = 32768


def build_listeners(
    settings: Settings, local: LocalAddresses, door: Door = TCP_DOOR
) -> tuple[listener_pb2.Listener, ...]:
    """All listeners that the settings ask for; `door`: what visitors find there."""
    main = build_main(settings, local, door)
    if settings.insecure_server:
        chain = listener_components_pb2.FilterChain(filters=[main])
        found = [_listener(HTTP, settings.address, chain, settings, local, tls=False)]
    else:
        chain = listener_components_pb2.FilterChain(
            filters=[main], transport_socket=build_downstream_tls(settings, door.asked)
        )
        found = [_listener(HTTPS, settings.address, chain, settings, local, tls=True)]
    if door.http3:
        found.append(_quic_listener(settings, local, door))
    if settings.http_redirect is not None:
        chain = listener_components_pb2.FilterChain(filters=[build_redirect()])
        found.append(_listener(REDIRECT, settings.http_redirect, chain, settings, local, tls=False))
    if settings.metrics is not None and local.metrics_socket:
        chain = listener_components_pb2.FilterChain(
            filters=[build_metrics()], transport_socket=build_metrics_tls(settings.metrics)
        )
        # Whoever scrapes does not come through the balancer that visitors come through.
        unproxied = replace(settings, use_proxy_protocol=False)
        found.append(_listener(METRICS, settings.metrics.address, chain, unproxied, local, tls=False))
    if settings.envoy_admin is not None and local.admin_socket:
        chain = listener_components_pb2.FilterChain(filters=[build_admin(settings)])
        unproxied = replace(settings, use_proxy_protocol=False)
        found.append(_listener(ADMIN, settings.envoy_admin, chain, unproxied, local, tls=False))
    return tuple(found)


def _quic_listener(settings: Settings, local: LocalAddresses, door: Door) -> listener_pb2.Listener:
    """At the same address over UDP, with the same filters, so that nobody gets in by it who would not otherwise."""
    context = build_tls_context(settings, door.asked, (), quic_positions(settings.certificates))
    chain = listener_components_pb2.FilterChain(
        filters=[build_main(settings, local, door._replace(quic=True))], transport_socket=build_quic_tls(context)
    )
    # Nobody announces visitors there by the PROXY protocol, which is made for TCP.
    built = _listener(QUIC, settings.address, chain, replace(settings, use_proxy_protocol=False), local, tls=False)
    make_quic(built)
    return built


def _listener(
    name: str,
    address: Address,
    chain: listener_components_pb2.FilterChain,
    settings: Settings,
    local: LocalAddresses,
    *,
    tls: bool,
) -> listener_pb2.Listener:
    first, *others = bind_hosts(address.host, ipv6=local.ipv6)
    built = listener_pb2.Listener(
        name=name,
        address=socket_address(first, address.port),
        additional_addresses=[
            listener_pb2.AdditionalAddress(address=socket_address(host, address.port)) for host in others
        ],
        filter_chains=[chain],
        per_connection_buffer_limit_bytes=UInt32Value(value=_BUFFER_LIMIT),
        enable_reuse_port=BoolValue(value=True),
    )
    if settings.use_proxy_protocol:
        built.listener_filters.add(
            name="envoy.filters.listener.proxy_protocol", typed_config=any_of(proxy_protocol_pb2.ProxyProtocol())
        )
    if tls:
        built.listener_filters.add(
            name="envoy.filters.listener.tls_inspector", typed_config=any_of(tls_inspector_pb2.TlsInspector())
        )
    return built


def bind_hosts(host: str, *, ipv6: bool) -> tuple[str, ...]:
    """The addresses to bind: every interface of both families for no host, else that one (routes 7)."""
    if host in ("", "*"):
        return ("::", "0.0.0.0") if ipv6 else ("0.0.0.0",)  # noqa: S104 - listening everywhere is what was asked for
    if host == "localhost":
        return ("127.0.0.1",)
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return (host,)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (str(mapped or address),)
