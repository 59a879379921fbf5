"""What a route does with a request: forward, redirect or answer, checked as a whole (routes 1.2, 4.2, 6)."""

from collections.abc import Sequence
from datetime import timedelta

from pomerium_agent.config.action import (
    Action,
    CircuitBreakers,
    Endpoint,
    Forward,
    LoadBalancing,
    Transport,
    Upstream,
    UpstreamTls,
)
from pomerium_agent.config.complaints import Complaints
from pomerium_agent.config.durations import parse_duration
from pomerium_agent.config.health import parse_health_checks, parse_outlier_detection
from pomerium_agent.config.rewrites import (
    parse_host_rewrite,
    parse_path_rewrite,
    parse_redirect,
    parse_response,
    parse_upgrades,
)
from pomerium_agent.config.source import Kind
from pomerium_agent.config.upstream_tls import ReadFile, parse_upstream_tls, with_server_name
from pomerium_agent.config.urls import parse_upstreams, with_weights
from pomerium_agent.pb.pomerium import config_pb2

NO_LIMIT = timedelta(0)
_LOAD_BALANCING = {config_pb2.LOAD_BALANCING_POLICY_UNSPECIFIED: LoadBalancing.ROUND_ROBIN} | {
    config_pb2.LoadBalancingPolicy.Value(f"LOAD_BALANCING_POLICY_{policy.value}"): policy for policy in LoadBalancing
}


def parse_action(
    route: config_pb2.Route,
    default_upgrades: Sequence[str],
    read_file: ReadFile | None,
    complaints: Complaints,
    *,
    kind: Kind = Kind.HTTP,
) -> Action:
    """Redirect wins over response, response over `to` (routes 1.2, field 3). `kind` is that of the route's `from`.

    TLS material is checked whichever it is, as the reference does. What is returned counts only if nothing
    was refused.
    """
    tls = parse_upstream_tls(route, read_file, complaints)
    if route.HasField("redirect") and route.redirect.ListFields():
        return parse_redirect(route.redirect, complaints)
    if route.HasField("response"):
        return parse_response(route.response, complaints)
    if not route.to:
        complaints.refuse(
            "to",
            "the route leads nowhere: one of to, redirect or response must be set",
            "give the upstream's URL, for example http://app.internal:8080",
        )
    endpoints = parse_upstreams(route.to, complaints)
    endpoints = with_weights(endpoints, route.load_balancing_weights, complaints)
    return _forward(route, with_server_name(endpoints, route, complaints), tls, default_upgrades, complaints, kind)


def _forward(
    route: config_pb2.Route,
    endpoints: tuple[Endpoint, ...],
    tls: UpstreamTls,
    default_upgrades: Sequence[str],
    complaints: Complaints,
    kind: Kind,
) -> Forward:
    upgrades = parse_upgrades(route, default_upgrades, complaints)
    websocket = dict(upgrades)["websocket"]
    prefix, pattern, substitution = parse_path_rewrite(route, endpoints, complaints)
    if kind is not Kind.HTTP:  # a tunnel has no path
        prefix, pattern, substitution = "", "", ""
    ended = _tunnel_ends(endpoints, kind, complaints)
    # A request that goes on for as long as a socket is open must not meet a time limit (routes 6.1).
    unset = NO_LIMIT if websocket or kind is not Kind.HTTP else None
    forwarded_host_removed = any(name.lower() == "x-forwarded-host" for name in route.remove_request_headers)
    return Forward(
        upstream=_upstream(route, endpoints, tls, websocket, complaints),
        prefix_rewrite=prefix,
        regex_rewrite=pattern,
        regex_substitution=substitution,
        host_rewrite=parse_host_rewrite(route, complaints),
        timeout=complaints.attempt("timeout", parse_duration, route.timeout) if route.HasField("timeout") else unset,
        idle_timeout=(
            complaints.attempt("idle_timeout", parse_duration, route.idle_timeout)
            if route.HasField("idle_timeout")
            else unset
        ),
        append_forwarded_host=not route.preserve_host_header and not forwarded_host_removed,
        upgrades=upgrades,
        connect=ended,
    )


def _tunnel_ends(endpoints: tuple[Endpoint, ...], kind: Kind, complaints: Complaints) -> bool:
    """Whether bytes leave the tunnel here, for tcp and udp upstreams; others are the next proxy (routes 6.2)."""
    for tunnel, transport in ((Kind.TCP, Transport.TCP), (Kind.UDP, Transport.UDP)):
        if kind is not tunnel and any(endpoint.transport is transport for endpoint in endpoints):
            complaints.refuse(
                "to",
                f"a {transport.value} upstream needs a tunnel to it",
                f"write from as {tunnel.value}+https://host:port, or use http:// or https:// here",
            )
    if kind is Kind.UDP and any(endpoint.transport is not Transport.UDP for endpoint in endpoints):
        complaints.refuse("to", "a udp route leads to a udp upstream only", "write to as udp://host:port")
    return bool(endpoints) and endpoints[0].transport in (Transport.TCP, Transport.UDP)


def _upstream(
    route: config_pb2.Route,
    endpoints: tuple[Endpoint, ...],
    tls: UpstreamTls,
    http1_only: bool,
    complaints: Complaints,
) -> Upstream:
    panic = route.healthy_panic_threshold if route.HasField("healthy_panic_threshold") else None
    if panic is not None and not 0 <= panic <= 100:
        complaints.refuse("healthy_panic_threshold", f"{panic} is not a percentage", "use a number from 0 to 100")
    policy = _LOAD_BALANCING.get(route.load_balancing_policy)
    if policy is None:
        complaints.refuse(
            "load_balancing_policy",
            f"{route.load_balancing_policy} is not a known choice",
            f"use one of {', '.join(sorted(choice.value for choice in LoadBalancing))}",
        )
    outlier_detection = b""
    if route.HasField("outlier_detection"):
        outlier_detection = parse_outlier_detection(route.outlier_detection, complaints)
    return Upstream(
        endpoints=endpoints,
        tls=tls,
        http1_only=http1_only,
        load_balancing=policy or LoadBalancing.ROUND_ROBIN,
        healthy_panic_threshold=panic,
        health_checks=parse_health_checks(route.health_checks, endpoints, http1_only, complaints),
        outlier_detection=outlier_detection,
        circuit_breakers=parse_circuit_breakers(route.circuit_breaker_thresholds),
        dns_v4_only=route.enable_google_cloud_serverless_authentication,
    )


def parse_circuit_breakers(thresholds: config_pb2.CircuitBreakerThresholds) -> CircuitBreakers:
    """Only what is present; the rest is left to the layer below, per field (R-27)."""
    return CircuitBreakers(**{field.name: value for field, value in thresholds.ListFields()})
