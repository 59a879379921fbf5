"""How Envoy reaches the agent: for a decision, and for the agent's own pages (routes 9.4)."""

from datetime import timedelta

from google.protobuf.wrappers_pb2 import UInt32Value

from pomerium_agent.config.action import CircuitBreakers
from pomerium_agent.config.snapshot import Settings
from pomerium_agent.envoyconfig.clusters import BUFFER_LIMIT, CONNECT_TIMEOUT, limit, overlaid
from pomerium_agent.envoyconfig.local import LocalAddresses
from pomerium_agent.envoyconfig.protocols import PROTOCOL_OPTIONS, build_http1, build_http2
from pomerium_agent.envoyconfig.virtual_hosts import PAGES_CLUSTER
from pomerium_agent.envoyconfig.wire import any_of, duration, pipe_address
from pomerium_agent.pb.envoy.config.cluster.v3 import cluster_pb2
from pomerium_agent.pb.envoy.config.endpoint.v3 import endpoint_components_pb2
from pomerium_agent.pb.envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from pomerium_agent.pb.envoy.type.v3 import percent_pb2

ADMIN_CLUSTER = "pomerium-envoy-admin"
AUTHORIZE_CLUSTER = "pomerium-authorize"
METRICS_CLUSTER = "pomerium-control-plane-metrics"
UNLIMITED = 4294967295
# A starved agent must not make Envoy drop the connection on which it asks (envoy.md 2.2).
MANY_FRAMES = 1_000_000


def build_agent_clusters(local: LocalAddresses, settings: Settings) -> tuple[cluster_pb2.Cluster, ...]:
    """How Envoy reaches the agent: over unix sockets, without limits of its own."""
    http2 = build_http2()
    http2.max_outbound_frames.value = MANY_FRAMES
    http2.max_outbound_control_frames.value = MANY_FRAMES
    keepalive = http2.connection_keepalive
    keepalive.interval.CopyFrom(duration(timedelta(seconds=360)))
    keepalive.timeout.CopyFrom(duration(timedelta(seconds=60)))
    keepalive.interval_jitter.CopyFrom(percent_pb2.Percent(value=15))
    keepalive.connection_idle_interval.CopyFrom(duration(timedelta(seconds=300)))
    asking = http_protocol_options_pb2.HttpProtocolOptions()
    asking.explicit_http_config.http2_protocol_options.CopyFrom(http2)
    pages = http_protocol_options_pb2.HttpProtocolOptions()
    pages.explicit_http_config.http_protocol_options.CopyFrom(build_http1())
    # A connection that is kept may be closed by an agent that leaves just when Envoy asks again on it.
    pages.common_http_protocol_options.max_requests_per_connection.value = 1
    found = [
        _build_agent_cluster(AUTHORIZE_CLUSTER, local.authorize_socket, asking, settings),
        _build_agent_cluster(PAGES_CLUSTER, local.pages_socket, pages, settings),
    ]
    if settings.metrics is not None and local.metrics_socket:
        found.append(_build_agent_cluster(METRICS_CLUSTER, local.metrics_socket, pages, settings))
    if settings.envoy_admin is not None and local.admin_socket:
        found.append(_build_agent_cluster(ADMIN_CLUSTER, local.admin_socket, pages, settings))
    return tuple(found)


def _build_agent_cluster(
    name: str, path: str, options: http_protocol_options_pb2.HttpProtocolOptions, settings: Settings
) -> cluster_pb2.Cluster:
    built = cluster_pb2.Cluster(
        name=name,
        connect_timeout=duration(CONNECT_TIMEOUT),
        per_connection_buffer_limit_bytes=UInt32Value(value=BUFFER_LIMIT),
        cluster_type=cluster_pb2.Cluster.CustomClusterType(name="envoy.cluster.static"),
        typed_extension_protocol_options={PROTOCOL_OPTIONS: any_of(options)},
    )
    locality = built.load_assignment.endpoints.add()
    built.load_assignment.cluster_name = name
    locality.lb_endpoints.append(
        endpoint_components_pb2.LbEndpoint(endpoint=endpoint_components_pb2.Endpoint(address=pipe_address(path)))
    )
    unlimited = CircuitBreakers(
        max_connections=UNLIMITED,
        max_pending_requests=UNLIMITED,
        max_requests=UNLIMITED,
        max_connection_pools=UNLIMITED,
    )
    limit(built, overlaid(unlimited, settings.circuit_breakers))
    return built
