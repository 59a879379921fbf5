"""Upstreams as clusters (routes 9)."""

import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from pomerium_agent.config.action import (
    CircuitBreakers,
    Endpoint,
    Forward,
    LoadBalancing,
    Transport,
    Upstream,
    UpstreamTls,
)
from pomerium_agent.config.snapshot import DnsOptions
from pomerium_agent.envoyconfig.agent_clusters import build_agent_clusters
from pomerium_agent.envoyconfig.clusters import ClusterContext, build_route_cluster
from pomerium_agent.envoyconfig.upstream_tls import SYSTEM_CA
from pomerium_agent.pb.envoy.config.cluster.v3 import cluster_pb2, outlier_detection_pb2
from pomerium_agent.pb.envoy.config.core.v3 import health_check_pb2
from pomerium_agent.pb.envoy.extensions.clusters.dns.v3 import dns_cluster_pb2
from pomerium_agent.pb.envoy.extensions.network.dns_resolver.cares.v3 import cares_dns_resolver_pb2
from pomerium_agent.pb.envoy.extensions.transport_sockets.tls.v3 import common_pb2, tls_pb2
from pomerium_agent.pb.envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from tests.fakes.snapshots import LOCAL, endpoint, route, snapshot

UNLIMITED = 4294967295


def cluster(*endpoints: str | Endpoint, settings: dict[str, Any] | None = None, **upstream: Any) -> cluster_pb2.Cluster:
    found = tuple(endpoint(each) if isinstance(each, str) else each for each in endpoints or ("http://up.internal",))
    action = Forward(upstream=Upstream(endpoints=found, **upstream))
    return build_route_cluster(route(action=action), action, ClusterContext.of(snapshot(**(settings or {})).settings))


def protocols(built: cluster_pb2.Cluster) -> http_protocol_options_pb2.HttpProtocolOptions:
    [options] = built.typed_extension_protocol_options.values()
    return http_protocol_options_pb2.HttpProtocolOptions.FromString(options.value)


def tls(built: cluster_pb2.Cluster) -> tls_pb2.UpstreamTlsContext:
    return tls_pb2.UpstreamTlsContext.FromString(built.transport_socket.typed_config.value)


def san(built: cluster_pb2.Cluster) -> common_pb2.SubjectAltNameMatcher:
    context = tls(built).common_tls_context
    rules = context.combined_validation_context.default_validation_context
    [matcher] = (rules if rules.ByteSize() else context.validation_context).match_typed_subject_alt_names
    return matcher


def test_a_renamed_route_keeps_its_cluster() -> None:
    """R-29."""
    before, after = (
        build_route_cluster(
            route(name=name),
            Forward(upstream=Upstream(endpoints=(endpoint("http://a"),))),
            ClusterContext.of(snapshot().settings),
        )
        for name in ("Shop", "New shop")
    )

    assert before.name == after.name == "route-r1"
    assert (before.alt_stat_name, after.alt_stat_name) == ("Shop", "New shop")


@pytest.mark.parametrize(
    ("urls", "http1_only", "expected"),
    [
        (["https://a", "https://b"], False, "auto"),
        (["https://a"], True, "http1"),
        (["http://a"], False, "http1"),
        (["https://a", "http://b"], False, "http1"),
        (["h2c://a", "h2c://b"], False, "http2"),
        (["h2c://a", "http://b"], False, "http1"),
    ],
)
def test_the_protocol_is_what_all_endpoints_speak(urls: list[str], http1_only: bool, expected: str) -> None:
    """Routes 9.2."""
    options = protocols(cluster(*urls, http1_only=http1_only))

    explicit = options.explicit_http_config.WhichOneof("protocol_config")
    assert expected == {"http_protocol_options": "http1", "http2_protocol_options": "http2", None: "auto"}[explicit]


def test_alpn_offers_what_the_protocol_allows() -> None:
    """Routes 9.2."""
    assert list(tls(cluster("https://a")).common_tls_context.alpn_protocols) == ["h2", "http/1.1"]
    assert list(tls(cluster("https://a", http1_only=True)).common_tls_context.alpn_protocols) == ["http/1.1"]


def test_an_address_needs_no_resolver() -> None:
    assert cluster("http://10.0.0.1", "http://[::1]:8080").cluster_type.name == "envoy.cluster.static"
    assert cluster("http://10.0.0.1", "http://a").cluster_type.name == "envoy.clusters.dns"
    piped = Endpoint(url="unix:///run/a", transport=Transport.HTTP, pipe="/run/a")
    assert cluster(piped).cluster_type.name == "envoy.cluster.static"
    assert cluster(piped).load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.pipe.path == "/run/a"


def test_resolver_settings_reach_the_cluster_and_the_defaults_are_shared() -> None:
    """R-26."""
    dns = DnsOptions(
        lookup_family="ALL",
        query_tries=2,
        query_timeout=timedelta(seconds=3),
        use_tcp=True,
        refresh_rate=timedelta(seconds=9),
        failure_refresh_rate=timedelta(seconds=1),
    )

    special = dns_cluster_pb2.DnsCluster.FromString(cluster(settings={"dns": dns}).cluster_type.typed_config.value)
    common = dns_cluster_pb2.DnsCluster.FromString(cluster(dns_v4_only=True).cluster_type.typed_config.value)

    cares = cares_dns_resolver_pb2.CaresDnsResolverConfig.FromString(
        special.typed_dns_resolver_config.typed_config.value
    )
    assert (cares.query_tries.value, cares.query_timeout_seconds.value) == (2, 3)
    assert cares.dns_resolver_options.use_tcp_for_dns_lookups
    assert special.dns_refresh_rate.seconds == 9
    assert special.dns_failure_refresh_rate.base_interval.seconds == 1
    assert not common.HasField("typed_dns_resolver_config")
    assert common.respect_dns_ttl
    assert common.dns_lookup_family == 2  # V4_ONLY


def test_names_are_verified_against_roots_always() -> None:
    """R-15."""
    context = tls(cluster("https://a.internal")).common_tls_context
    own = tls(cluster("https://a.internal", tls=UpstreamTls(custom_ca="PEM"))).common_tls_context

    assert context.combined_validation_context.validation_context_sds_secret_config.name == SYSTEM_CA
    assert own.validation_context.trusted_ca.inline_string == "PEM"
    assert not own.HasField("combined_validation_context")


@pytest.mark.parametrize(
    ("name", "kind", "exact", "regex"),
    [
        ("a.internal", "DNS", "a.internal", ""),
        ("*.a.internal", "DNS", "", r".*\.a\.internal"),
        ("10.0.0.1", "IP_ADDRESS", "10.0.0.1", ""),
        ("fe80::1%eth0", "IP_ADDRESS", "fe80::1", ""),
        ("", "DNS", "", ""),
    ],
)
def test_a_server_must_be_who_we_called(name: str, kind: str, exact: str, regex: str) -> None:
    """Routes 9.3; nobody fits the empty name, so a socket without a name is trusted only when told so."""
    found = san(cluster(endpoint("https://x", server_name=name)))

    assert common_pb2.SubjectAltNameMatcher.SanType.Name(found.san_type) == kind
    assert (found.matcher.exact, found.matcher.safe_regex.regex) == (exact, regex)
    assert found.matcher.WhichOneof("match_pattern") == ("safe_regex" if regex else "exact")


def test_skipping_verification_accepts_anybody() -> None:
    context = tls(cluster("https://a", tls=UpstreamTls(skip_verify=True))).common_tls_context

    rules = context.combined_validation_context.default_validation_context
    assert rules.trust_chain_verification == common_pb2.CertificateValidationContext.ACCEPT_UNTRUSTED


def test_endpoints_with_different_needs_find_their_own_socket() -> None:
    """R-15: the first that speaks TLS is also the cluster's own."""
    built = cluster("http://plain", "https://one", "https://two")

    endpoints = built.load_assignment.endpoints[0].lb_endpoints
    labels = [list(e.metadata.filter_metadata["envoy.transport_socket_match"].fields) for e in endpoints]
    assert labels == [["transport-0"], ["transport-1"], ["transport-2"]]
    assert [m.name for m in built.transport_socket_matches] == ["transport-0", "transport-1", "transport-2"]
    assert built.transport_socket_matches[0].transport_socket.name == "envoy.transport_sockets.raw_buffer"
    assert tls(built).sni == "one"


def test_one_kind_of_socket_needs_no_labels() -> None:
    built = cluster(endpoint("https://a:1"), dataclasses.replace(endpoint("https://a:2"), weight=3))

    assert not built.transport_socket_matches
    assert tls(built).sni == "a"
    weights = [e.load_balancing_weight.value for e in built.load_assignment.endpoints[0].lb_endpoints]
    assert weights == [0, 3]


@pytest.mark.parametrize("policy", list(LoadBalancing))
def test_load_balancing_is_mapped_by_name(policy: LoadBalancing) -> None:
    built = cluster(load_balancing=policy)

    assert cluster_pb2.Cluster.LbPolicy.Name(built.lb_policy) == policy.value


def test_checked_bytes_are_taken_as_they_are() -> None:
    check = health_check_pb2.HealthCheck(http_health_check={"path": "/healthz"}, interval={"seconds": 3})
    outlier = outlier_detection_pb2.OutlierDetection(consecutive_5xx={"value": 3})

    built = cluster(
        health_checks=(check.SerializeToString(),),
        outlier_detection=outlier.SerializeToString(),
        healthy_panic_threshold=0,
    )

    assert list(built.health_checks) == [check]
    assert built.outlier_detection == outlier
    assert built.common_lb_config.HasField("healthy_panic_threshold")
    [checked] = built.load_assignment.endpoints[0].lb_endpoints
    assert checked.endpoint.health_check_config.hostname == "up.internal"


def test_circuit_breakers_are_overlaid_field_by_field() -> None:
    """R-27."""
    everywhere: dict[str, Any] = {"circuit_breakers": CircuitBreakers(max_connections=5, max_requests=6)}

    [limits] = cluster(
        circuit_breakers=CircuitBreakers(max_requests=1), settings=everywhere
    ).circuit_breakers.thresholds
    authorize, pages = build_agent_clusters(LOCAL, snapshot(**everywhere).settings)

    assert (limits.max_connections.value, limits.max_requests.value) == (5, 1)
    assert not limits.HasField("max_retries")
    assert not cluster().HasField("circuit_breakers")
    for each in (authorize, pages):
        [own] = each.circuit_breakers.thresholds
        assert (own.max_connections.value, own.max_requests.value, own.max_pending_requests.value) == (5, 6, UNLIMITED)


def test_the_bind_address_is_for_upstreams() -> None:
    bound = cluster(settings={"bind_source_address": "10.0.0.9", "bind_freebind": False})

    assert bound.upstream_bind_config.source_address.address == "10.0.0.9"
    assert not bound.upstream_bind_config.freebind.value
    assert bound.upstream_bind_config.HasField("freebind")
    assert not cluster().HasField("upstream_bind_config")


def test_the_agent_is_asked_over_unix_sockets_with_room_for_many_frames() -> None:
    """Routes 9.4, envoy.md 2.2."""
    authorize, pages = build_agent_clusters(LOCAL, snapshot().settings)

    paths = [c.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.pipe.path for c in (authorize, pages)]
    assert paths == [LOCAL.authorize_socket, LOCAL.pages_socket]
    http2 = protocols(authorize).explicit_http_config.http2_protocol_options
    assert http2.max_outbound_frames.value >= 100_000
    assert http2.max_outbound_control_frames.value >= 100_000
    assert http2.HasField("connection_keepalive")
    assert protocols(pages).explicit_http_config.HasField("http_protocol_options")


def test_a_client_certificate_travels_with_its_key() -> None:
    built = cluster("https://a", tls=UpstreamTls(client_certificate="C", client_key="K", allow_renegotiation=True))

    [pair] = tls(built).common_tls_context.tls_certificates
    assert (pair.certificate_chain.inline_string, pair.private_key.inline_string) == ("C", "K")
    assert tls(built).allow_renegotiation
