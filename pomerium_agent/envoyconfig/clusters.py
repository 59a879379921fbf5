"""Upstreams as Envoy clusters: one per route that forwards (routes 9.1)."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from pomerium_agent.config.action import CircuitBreakers, Endpoint, Forward, LoadBalancing, Upstream
from pomerium_agent.config.snapshot import DnsOptions, Route, Settings
from pomerium_agent.envoyconfig.dns import build_dns
from pomerium_agent.envoyconfig.protocols import PROTOCOL_OPTIONS, build_protocols, explicit_http1
from pomerium_agent.envoyconfig.route import cluster_name
from pomerium_agent.envoyconfig.upstream_tls import build_transport_socket
from pomerium_agent.envoyconfig.wire import any_of, duration, pipe_address, socket_address
from pomerium_agent.pb.envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from pomerium_agent.pb.envoy.config.core.v3 import (
    address_pb2,
    base_pb2,
    health_check_pb2,
)
from pomerium_agent.pb.envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from pomerium_agent.pb.envoy.type.v3 import percent_pb2

STAT_NAME_METADATA = "com.pomerium.cluster"
CONNECT_TIMEOUT = timedelta(seconds=10)
BUFFER_LIMIT = 32768
_TRANSPORT_SOCKET_MATCH = "envoy.transport_socket_match"
_LB_POLICIES = {policy: getattr(cluster_pb2.Cluster, policy.value) for policy in LoadBalancing}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterContext:
    """What clusters read of the settings."""

    dns: DnsOptions
    circuit_breakers: CircuitBreakers
    bind_source_address: str
    bind_freebind: bool | None

    @classmethod
    def of(cls, settings: Settings) -> "ClusterContext":
        return cls(
            dns=settings.dns,
            circuit_breakers=settings.circuit_breakers,
            bind_source_address=settings.bind_source_address,
            bind_freebind=settings.bind_freebind,
        )


# --- one per route ----------------------------------------------------------------------------------


def build_route_cluster(route: Route, forward: Forward, context: ClusterContext) -> cluster_pb2.Cluster:
    """The upstream of one route (routes 9.1)."""
    upstream = forward.upstream
    built = cluster_pb2.Cluster(
        name=cluster_name(route),
        connect_timeout=duration(CONNECT_TIMEOUT),
        per_connection_buffer_limit_bytes=UInt32Value(value=BUFFER_LIMIT),
        lb_policy=_LB_POLICIES[upstream.load_balancing],
        typed_extension_protocol_options={PROTOCOL_OPTIONS: any_of(build_protocols(upstream))},
        health_checks=[health_check_pb2.HealthCheck.FromString(check) for check in upstream.health_checks],
    )
    _name_stats(built, route.stat_name or route.name)
    discover(built, upstream, context)
    connect(built, upstream)
    if upstream.healthy_panic_threshold is not None:
        built.common_lb_config.healthy_panic_threshold.CopyFrom(
            percent_pb2.Percent(value=upstream.healthy_panic_threshold)
        )
    if upstream.outlier_detection:
        built.outlier_detection.CopyFrom(outlier_detection_pb2.OutlierDetection.FromString(upstream.outlier_detection))
    limit(built, overlaid(context.circuit_breakers, upstream.circuit_breakers))
    _bind(built, context)
    return built


def _name_stats(built: cluster_pb2.Cluster, stat_name: str) -> None:
    """A readable name beside the stable one (R-29)."""
    if stat_name:
        built.alt_stat_name = stat_name
        told = Struct()
        told["stat_name"] = stat_name
        built.metadata.filter_metadata[STAT_NAME_METADATA].CopyFrom(told)


def discover(built: cluster_pb2.Cluster, upstream: Upstream, context: ClusterContext) -> None:
    """How Envoy comes to the addresses of the endpoints."""
    if all(endpoint.pipe or endpoint.is_ip for endpoint in upstream.endpoints):
        built.cluster_type.name = "envoy.cluster.static"
        return
    built.cluster_type.name = "envoy.clusters.dns"
    built.cluster_type.typed_config.CopyFrom(any_of(build_dns(context.dns, v4_only=upstream.dns_v4_only)))


def connect(built: cluster_pb2.Cluster, upstream: Upstream, *, alpn: tuple[str, ...] = ()) -> None:
    """Endpoints and their transport sockets; `alpn` if it does not follow from the upstream.

    Endpoints that need different ones find theirs by a label. The first is also the cluster's own, since
    protocol negotiation is refused for a cluster that would fall back to plain text (R-15).
    """
    alpn = alpn or (("http/1.1",) if explicit_http1(upstream) else ("h2", "http/1.1"))
    labels: dict[tuple[bool, str], str] = {}
    for endpoint in upstream.endpoints:
        labels.setdefault((endpoint.tls, endpoint.server_name if endpoint.tls else ""), f"transport-{len(labels)}")
    several = len(labels) > 1
    sockets: dict[str, base_pb2.TransportSocket] = {}
    located = endpoint_pb2.ClusterLoadAssignment(cluster_name=built.name)
    locality = located.endpoints.add()
    for endpoint in upstream.endpoints:
        label = labels[(endpoint.tls, endpoint.server_name if endpoint.tls else "")]
        if label not in sockets:
            sockets[label] = build_transport_socket(endpoint, upstream.tls, alpn)
        locality.lb_endpoints.append(_build_endpoint(endpoint, label if several else "", bool(upstream.health_checks)))
    built.load_assignment.CopyFrom(located)
    if several:
        for label, socket in sockets.items():
            matching = built.transport_socket_matches.add(name=label, transport_socket=socket)
            matching.match[label] = True
    if any(endpoint.tls for endpoint in upstream.endpoints):
        first_tls = next(endpoint for endpoint in upstream.endpoints if endpoint.tls)
        built.transport_socket.CopyFrom(sockets[labels[(True, first_tls.server_name)]])


def _build_endpoint(endpoint: Endpoint, label: str, checked: bool) -> endpoint_components_pb2.LbEndpoint:
    address = pipe_address(endpoint.pipe) if endpoint.pipe else socket_address(endpoint.host, endpoint.port)
    built = endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint_components_pb2.Endpoint(address=address, hostname=endpoint.hostname)
    )
    if checked and endpoint.hostname:
        # Otherwise health checks would ask for a host called like the cluster.
        built.endpoint.health_check_config.hostname = endpoint.hostname
    if endpoint.weight is not None:
        built.load_balancing_weight.value = endpoint.weight
    if label:
        told = Struct()
        told[label] = True
        built.metadata.filter_metadata[_TRANSPORT_SOCKET_MATCH].CopyFrom(told)
    return built


def _bind(built: cluster_pb2.Cluster, context: ClusterContext) -> None:
    if not context.bind_source_address and context.bind_freebind is None:
        return
    if context.bind_source_address:
        built.upstream_bind_config.source_address.CopyFrom(
            address_pb2.SocketAddress(address=context.bind_source_address, port_value=0)
        )
    if context.bind_freebind is not None:
        built.upstream_bind_config.freebind.CopyFrom(BoolValue(value=context.bind_freebind))


# --- circuit breakers (R-27) ------------------------------------------------------------------------


def overlaid(below: CircuitBreakers, above: CircuitBreakers) -> CircuitBreakers:
    """Field by field, what is set above hides what is below."""
    return CircuitBreakers(
        **{
            each.name: getattr(below if getattr(above, each.name) is None else above, each.name)
            for each in dataclasses.fields(CircuitBreakers)
        }
    )


def limit(built: cluster_pb2.Cluster, limits: CircuitBreakers) -> None:
    """Give the cluster its circuit breakers; what is not set is as Envoy has it."""
    values: Mapping[str, int | None] = {
        each.name: getattr(limits, each.name) for each in dataclasses.fields(CircuitBreakers)
    }
    if all(value is None for value in values.values()):
        return
    thresholds = circuit_breaker_pb2.CircuitBreakers.Thresholds()
    for name, value in values.items():
        if value is not None:
            getattr(thresholds, name).value = value
    built.circuit_breakers.thresholds.append(thresholds)
