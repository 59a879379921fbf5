"""The listener for those who scrape (routes 7.5)."""

from typing import Any

from pomerium_agent.config.snapshot import Address, MetricsListener
from pomerium_agent.envoyconfig.build import build_resources
from pomerium_agent.envoyconfig.resources import CLUSTER, LISTENER, SECRET
from pomerium_agent.pb.envoy.config.cluster.v3 import cluster_pb2
from pomerium_agent.pb.envoy.config.listener.v3 import listener_pb2
from pomerium_agent.pb.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from pomerium_agent.pb.envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from tests.fakes.snapshots import LOCAL, certificate, snapshot

NAME = "metrics-ingress"


def built(metrics: MetricsListener | None, **settings: Any) -> Any:
    return build_resources(snapshot(metrics=metrics, **settings), LOCAL)


def listening(**guards: Any) -> MetricsListener:
    return MetricsListener(address=Address(host="127.0.0.1", port=9902), **guards)


def test_there_is_none_without_an_address() -> None:
    resources = built(None)

    assert NAME not in resources.of(LISTENER)
    assert "pomerium-control-plane-metrics" not in resources.of(CLUSTER)


def test_two_paths_lead_to_the_agent_and_none_to_the_admin() -> None:
    resources = built(listening(), use_proxy_protocol=True)
    listener = listener_pb2.Listener.FromString(resources.of(LISTENER)[NAME].body)
    [chain] = listener.filter_chains
    manager = hcm_pb2.HttpConnectionManager.FromString(chain.filters[0].typed_config.value)
    cluster = cluster_pb2.Cluster.FromString(resources.of(CLUSTER)["pomerium-control-plane-metrics"].body)

    [host] = manager.route_config.virtual_hosts
    assert {(route.match.path, route.route.cluster) for route in host.routes} == {
        ("/metrics", "pomerium-control-plane-metrics"),
        ("/metrics/envoy", "pomerium-control-plane-metrics"),
    }
    endpoint = cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint
    assert endpoint.address.pipe.path == LOCAL.metrics_socket
    assert not chain.HasField("transport_socket")
    assert not listener.listener_filters  # scrapers do not come through the balancer of visitors
    assert not any("admin" in name for name in resources.of(CLUSTER))


def test_certificates_come_as_secrets_so_that_a_renewal_leaves_the_listener_alone() -> None:
    """Rows 65 and 66."""
    one = built(listening(certificate=certificate("a.example.com"), client_ca="-----CA-----"))
    other = built(listening(certificate=certificate("b.example.com"), client_ca="-----CA2-----"))
    listener = listener_pb2.Listener.FromString(one.of(LISTENER)[NAME].body)
    tls = tls_pb2.DownstreamTlsContext.FromString(listener.filter_chains[0].transport_socket.typed_config.value)

    assert tls.require_client_certificate.value
    assert tls.common_tls_context.validation_context_sds_secret_config.name == "metrics-client-ca"
    assert list(tls.common_tls_context.alpn_protocols) == ["h2", "http/1.1"]
    assert one.of(LISTENER)[NAME] == other.of(LISTENER)[NAME]
    for name in ("metrics-certificate", "metrics-client-ca"):
        assert one.of(SECRET)[name] != other.of(SECRET)[name]


def test_without_an_authority_no_certificate_is_asked_for() -> None:
    resources = built(listening(certificate=certificate("a.example.com")))
    listener = listener_pb2.Listener.FromString(resources.of(LISTENER)[NAME].body)
    tls = tls_pb2.DownstreamTlsContext.FromString(listener.filter_chains[0].transport_socket.typed_config.value)

    assert not tls.require_client_certificate.value
    assert "metrics-client-ca" not in resources.of(SECRET)
