"""Every check of routes 4.3 and 4.4 (R-5), and what a route means once it has passed them."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from pomerium_agent.config.action import CircuitBreakers, DirectResponse, Forward, HostRewrite, LoadBalancing, Redirect
from pomerium_agent.config.route_names import route_id
from pomerium_agent.config.routes import CheckedRoute, RouteContext, check_route
from pomerium_agent.config.snapshot import HeaderRewrite, Route
from pomerium_agent.config.source import Match, MatchKind
from pomerium_agent.pb.envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from pomerium_agent.pb.envoy.config.core.v3.health_check_pb2 import HealthCheck
from pomerium_agent.policy import evaluate
from tests.fakes.config_records import issue, route
from tests.fakes.people import facts_of

GOOD_CHECK = {
    "timeout": "2s",
    "interval": "10s",
    "unhealthy_threshold": 3,
    "healthy_threshold": 1,
    "http_health_check": {"path": "/healthz"},
}
CERT, KEY = (pem.decode() for pem in issue("client.example.com"))
OTHER_CERT, OTHER_KEY = (pem.decode() for pem in issue("other.example.com"))


def checked(context: RouteContext | None = None, read_file: Callable[[str], bytes] | None = None, **fields: Any) -> Any:
    return check_route(route(**fields), record_id="c1", context=context, read_file=read_file)


def good(context: RouteContext | None = None, **fields: Any) -> Route:
    outcome: CheckedRoute = checked(context, **fields)
    assert [str(fault) for fault in outcome.faults] == []
    assert outcome.route is not None
    return outcome.route


def forward(**fields: Any) -> Forward:
    action = good(**fields).action
    assert isinstance(action, Forward)
    return action


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    # routes 4.3
    ("no from", {"from_": ""}, "from", "it is empty"),
    ("from without scheme", {"from_": "app.example.com"}, "from", "no scheme"),
    ("from with path", {"from_": "https://app.example.com/x"}, "from", "has a path"),
    ("leads nowhere", {"to": []}, "to", "one of to, redirect or response"),
    ("empty redirect leads nowhere", {"to": [], "redirect": {}}, "to", "one of to, redirect or response"),
    ("bad to", {"to": ["http://"]}, "to[0]", "no host"),
    ("mixed to", {"to": ["http://a", "unix:///run/b"]}, "to", "cannot mix unix"),
    ("redirect code", {"redirect": {"response_code": 304}}, "redirect.response_code", "unsupported redirect response"),
    (
        "public and users",
        {"allow_public_unauthenticated_access": True, "allowed_users": ["ada"]},
        "allow_public_unauthenticated_access",
        "contains whitelists",
    ),
    (
        "public and any user",
        {"allow_public_unauthenticated_access": True, "allow_any_authenticated_user": True},
        "allow_public_unauthenticated_access",
        "at once",
    ),
    (
        "any user and domains",
        {"allow_any_authenticated_user": True, "allowed_domains": ["example.com"]},
        "allow_any_authenticated_user",
        "contains whitelists",
    ),
    ("client cert without key", {"tls_client_cert": CERT}, "tls_client_key", "must be set too"),
    ("client key without cert", {"tls_client_key": KEY}, "tls_client_cert", "must be set too"),
    ("client cert file alone", {"tls_client_cert_file": "/c.pem"}, "tls_client_key_file", "must be set too"),
    (
        "client cert is junk",
        {"tls_client_cert": "!", "tls_client_key": KEY},
        "tls_client_cert",
        "neither PEM nor base64",
    ),
    ("client key is junk", {"tls_client_cert": CERT, "tls_client_key": "AAAA"}, "tls_client_key", "not of PEM"),
    ("mismatch", {"tls_client_cert": CERT, "tls_client_key": OTHER_KEY}, "tls_client_key", "do not belong together"),
    ("custom ca is junk", {"tls_custom_ca": "AAAA"}, "tls_custom_ca", "not of PEM"),
    ("custom ca is a key", {"tls_custom_ca": KEY}, "tls_custom_ca", "no certificate that can be read"),
    ("client ca is junk", {"tls_downstream_client_ca": "%"}, "tls_downstream_client_ca", "neither PEM nor base64"),
    (
        "both kubernetes tokens",
        {"kubernetes_service_account_token": "t", "kubernetes_service_account_token_file": "/t"},
        "kubernetes_service_account_token",
        "both set",
    ),
    ("two rewrites", {"prefix_rewrite": "/", "regex_rewrite_pattern": "a"}, "prefix_rewrite", "both set"),
    ("depends on too many", {"depends_on": [f"h{n}" for n in range(6)]}, "depends_on", "limited to 5"),
    ("depends on no URL", {"depends_on": ["a/b"]}, "depends_on[0]", "not a URL"),
    ("mcp without mode", {"mcp": {}}, "mcp", "neither a server nor a client"),
    (
        "mcp authority without https",
        {"mcp": {"server": {"authorization_server_url": "http://a"}}},
        "mcp.server.authorization_server_url",
        "does not begin with https",
    ),
    ("identity providers without JWT", {"identity_providers": ["p"]}, "identity_providers", "unsupported unless"),
    (
        "identity provider unknown",
        {"identity_providers": ["p"], "bearer_token_format": "BEARER_TOKEN_FORMAT_JWT"},
        "identity_providers",
        "settings' identity_providers",
    ),
    # routes 4.4
    ("regex look-ahead", {"regex": "^/(?!a)"}, "regex", "RE2 refuses"),
    ("regex unclosed", {"regex": "("}, "regex", "RE2 refuses"),
    ("regex too large", {"regex": "((a{1000}){1000})"}, "regex", "RE2 refuses|compiles to"),
    ("rewrite regex", {"regex_rewrite_pattern": "["}, "regex_rewrite_pattern", "RE2 refuses"),
    (
        "rewrite group",
        {"regex_rewrite_pattern": "(a)", "regex_rewrite_substitution": r"\2"},
        "regex_rewrite_substitution",
        "has 1",
    ),
    (
        "rewrite backslash",
        {"regex_rewrite_pattern": "(a)", "regex_rewrite_substitution": "x\\"},
        "regex_rewrite_substitution",
        "backslash",
    ),
    ("host regex", {"host_path_regex_rewrite_pattern": "(?=a)"}, "host_path_regex_rewrite_pattern", "RE2 refuses"),
    (
        "host regex group",
        {"host_path_regex_rewrite_pattern": "a", "host_path_regex_rewrite_substitution": r"\1"},
        "host_path_regex_rewrite_substitution",
        "has 0",
    ),
    ("response header value", {"set_response_headers": {"X": "a\r\nb"}}, "set_response_headers.X", "line break"),
    ("response header key", {"set_response_headers": {"": "a"}}, "set_response_headers", "no name"),
    ("response header host", {"set_response_headers": {"Host": "a"}}, "set_response_headers", "cannot be set"),
    ("response pseudo-header", {"set_response_headers": {":status": "a"}}, "set_response_headers", "pseudo-header"),
    ("request header that frames", {"set_request_headers": {"Content-Length": "1"}}, "set_request_headers", "ends"),
    (
        "response header that frames",
        {"set_response_headers": {"transfer-encoding": "chunked"}},
        "set_response_headers",
        "ends",
    ),
    (
        "more headers than Envoy takes",
        {"set_response_headers": {f"X-{number}": "" for number in range(451)}},
        "set_response_headers",
        "more than 450",
    ),
    ("request header value", {"set_request_headers": {"X": "a\0"}}, "set_request_headers.X", "line break or NUL"),
    ("request header host", {"set_request_headers": {"host": "a"}}, "set_request_headers", "cannot be set"),
    ("request header key", {"set_request_headers": {"a b": "a"}}, "set_request_headers", "not a header name"),
    (
        "rewritten header without a name",
        {"rewrite_response_headers": [{"value": "x"}]},
        "rewrite_response_headers[0].header",
        "no name",
    ),
    ("negative timeout", {"timeout": "-1s"}, "timeout", "cannot be negative"),
    ("negative idle timeout", {"idle_timeout": "-0.5s"}, "idle_timeout", "cannot be negative"),
    ("endless timeout", {"timeout": "300000000000s"}, "timeout", "292 years"),
    ("response status", {"response": {"status": 99}}, "response.status", "not between 200 and 599"),
    ("response status high", {"response": {"status": 600}}, "response.status", "not between 200 and 599"),
    ("response body", {"response": {"status": 200, "body": "é" * 600_000}}, "response.body", "longer than 1048576"),
    ("redirect port", {"redirect": {"port_redirect": 65536}}, "redirect.port_redirect", "not a port"),
    ("redirect port zero", {"redirect": {"port_redirect": 0}}, "redirect.port_redirect", "not a port"),
    ("redirect host", {"redirect": {"host_redirect": "a\nb"}}, "redirect.host_redirect", "line break"),
    ("host rewrite", {"host_rewrite": "a\r"}, "host_rewrite", "line break"),
    ("host rewrite header", {"host_rewrite_header": "a b"}, "host_rewrite_header", "not a header name"),
    ("prefix rewrite", {"prefix_rewrite": "/\n"}, "prefix_rewrite", "line break"),
    ("upgrade", {"allow_upgrades": {"values": ["a\nb"]}}, "allow_upgrades", "line break"),
    (
        "SNI",
        {"to": ["https://a"], "tls_upstream_server_name": "x" * 256},
        "tls_upstream_server_name",
        "longer than 255",
    ),
    ("SNI, older field", {"to": ["https://a"], "tls_server_name": "x" * 256}, "tls_server_name", "longer than 255"),
    ("panic", {"healthy_panic_threshold": 101}, "healthy_panic_threshold", "not a percentage"),
    ("panic below zero", {"healthy_panic_threshold": -1}, "healthy_panic_threshold", "not a percentage"),
    ("weight zero", {"to": ["http://a,0"]}, "to[0]", "not a weight"),
    ("port", {"to": ["http://a:65536"]}, "to[0]", "not a URL"),
    (
        "check without timeout",
        {"health_checks": [GOOD_CHECK | {"timeout": None}]},
        "health_checks[0].timeout",
        "required",
    ),
    ("check interval", {"health_checks": [GOOD_CHECK | {"interval": "0s"}]}, "health_checks[0].interval", "above zero"),
    (
        "check threshold",
        {"health_checks": [GOOD_CHECK, GOOD_CHECK | {"healthy_threshold": None}]},
        "health_checks[1].healthy_threshold",
        "required",
    ),
    (
        "check of nothing",
        {"health_checks": [GOOD_CHECK | {"http_health_check": None}]},
        "health_checks[0].health_checker",
        "one of",
    ),
    (
        "check without a path",
        {"health_checks": [GOOD_CHECK | {"http_health_check": {"host": "h"}}]},
        "health_checks[0].http_health_check.path",
        "required",
    ),
    ("check port", {"health_checks": [GOOD_CHECK | {"alt_port": 70000}]}, "health_checks[0].alt_port", "not a port"),
    (
        "check jitter",
        {"health_checks": [GOOD_CHECK | {"interval_jitter": "-1s"}]},
        "health_checks[0].interval_jitter",
        "negative",
    ),
    (
        "check statuses",
        {
            "health_checks": [
                GOOD_CHECK | {"http_health_check": {"path": "/", "expected_statuses": [{"start": 300, "end": 200}]}}
            ]
        },
        "health_checks[0].http_health_check.expected_statuses[0]",
        "not a range",
    ),
    (
        "check payload",
        {"health_checks": [GOOD_CHECK | {"http_health_check": None, "tcp_health_check": {"send": {"text": "zz"}}}]},
        "health_checks[0].tcp_health_check.send.text",
        "not hexadecimal",
    ),
    (
        "gRPC check over HTTP/1",
        {"health_checks": [GOOD_CHECK | {"http_health_check": None, "grpc_health_check": {}}]},
        "health_checks[0].grpc_health_check",
        "HTTP/2",
    ),
    (
        "ejection percent",
        {"outlier_detection": {"max_ejection_percent": 101}},
        "outlier_detection.max_ejection_percent",
        "above 100",
    ),
    ("ejection interval", {"outlier_detection": {"interval": "0s"}}, "outlier_detection.interval", "above zero"),
    (
        "ejection times",
        {"outlier_detection": {"base_ejection_time": "60s", "max_ejection_time": "30s"}},
        "outlier_detection.max_ejection_time",
        "shorter than",
    ),
    ("tcp upstream", {"to": ["tcp://b:22"]}, "to", "a tcp upstream needs a tunnel to it"),
    ("udp", {"from_": "udp+https://a.test:53", "to": ["https://b"]}, "to", "leads to a udp upstream only"),
    ("udp upstream", {"from_": "tcp+https://a.test:22", "to": ["udp://b:22"]}, "to", "a udp upstream needs a tunnel"),
    (
        "serverless without a host",
        {"enable_google_cloud_serverless_authentication": True, "to": ["unix:///run/app.sock"]},
        "enable_google_cloud_serverless_authentication",
        "no host that could be the audience",
    ),
    ("mcp", {"mcp": {"client": {}}}, "mcp", "by this version yet"),
    ("tunnel", {"upstream_tunnel": {}}, "upstream_tunnel", "by this version yet"),
    ("recording", {"session_recording": {"enabled": True}}, "session_recording", "by this version yet"),
]


@pytest.mark.parametrize(
    ("fields", "field", "complaint"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_route_that_envoy_or_sense_would_refuse_is_named_with_field_and_reason(
    fields: dict[str, Any], field: str, complaint: str
) -> None:
    outcome = checked(id="r1", name="wiki", **{k: v for k, v in fields.items() if v is not None})

    found = [fault for fault in outcome.faults if fault.field == field and not fault.warning]
    assert found, [str(fault) for fault in outcome.faults]
    assert any(word in found[0].reason + found[-1].reason for word in complaint.split("|"))
    assert found[0].remedy
    assert found[0].subject.startswith('route "wiki" (')
    assert (found[0].record_id, found[0].route_id) == ("c1", "r1")
    assert outcome.route is None


def test_all_complaints_come_at_once() -> None:
    outcome = checked(regex="(", timeout="-1s", to=["http://"], set_response_headers={"Host": "x"})

    assert {fault.field for fault in outcome.faults} == {"regex", "timeout", "to[0]", "set_response_headers"}


@pytest.mark.parametrize("regex", ["^/v[0-9]+/users/.*$", "(a{100}){10}", "^/(a|b|c){50}/.*(x|y){20}$"])
def test_a_regex_within_our_program_size_serves(regex: str) -> None:
    assert good(regex=regex).match == Match(MatchKind.REGEX, regex)


@pytest.mark.parametrize(
    ("template", "asked"),
    [
        ("via ${pomerium.request.headers['User-Agent']}", False),
        ("$$pomerium.jwt ${nothing.known}", False),
        ("${pomerium.client_cert_fingerprint}", True),
        ("Bearer $pomerium.id_token", True),
    ],
)
def test_an_open_route_that_tells_who_calls_has_to_be_asked_about(template: str, asked: bool) -> None:
    """Routes 1.2 (22): whoever comes with a certificate or a session is told of, trusted or not."""
    route = good(set_request_headers={"X-Who": template}, allow_public_unauthenticated_access=True)

    assert route.public is not asked


WARNED: list[tuple[str, dict[str, Any], str]] = [
    ("remove Host", {"remove_request_headers": ["Cookie", "Host"]}, "remove_request_headers"),
    ("remove pseudo", {"remove_request_headers": [":path"]}, "remove_request_headers"),
    ("remove nothing", {"remove_request_headers": [""]}, "remove_request_headers"),
    ("prefix without slash", {"prefix": "app"}, "prefix"),
    ("path with query", {"path": "/a?b"}, "path"),
    ("prefix with fragment", {"prefix": "/a#b"}, "prefix"),
    ("weights that do not fit", {"load_balancing_weights": [1, 2]}, "load_balancing_weights"),
    ("substitution alone", {"regex_rewrite_substitution": "x"}, "regex_rewrite_substitution"),
    ("one header twice", {"set_response_headers": {"X-A": "1", "x-a": "2"}}, "set_response_headers"),
]


@pytest.mark.parametrize(("fields", "field"), [row[1:] for row in WARNED], ids=[row[0] for row in WARNED])
def test_what_is_harmless_is_dropped_with_a_warning_and_the_route_serves(fields: dict[str, Any], field: str) -> None:
    outcome = checked(**fields)

    assert [(fault.field, fault.warning) for fault in outcome.faults] == [(field, True)]
    assert outcome.route is not None


def test_headers_that_cannot_be_removed_are_left_out_of_the_list() -> None:
    """A15."""
    outcome = checked(to=["https://u.internal/base/"], remove_request_headers=["Cookie", "Host", "X-Forwarded-Host"])

    assert outcome.route.remove_request_headers == ("Cookie", "X-Forwarded-Host")
    assert outcome.route.action.prefix_rewrite == "/base/"
    assert not outcome.route.action.append_forwarded_host


# --- what authorization and login need is none of the data plane's business ---------------------------


def test_what_only_authorization_reads_does_not_stop_a_route() -> None:
    served = good(
        allowed_users=["ada"],
        allowed_idp_claims={"groups": ["x"]},
        policies=[{"source_ppl": "allow: {and: [{email: a@b.c}]}"}],
        cors_allow_preflight=True,
        idp_client_id="id",
        idp_client_secret="secret",
        show_error_details=True,
        depends_on=["a.example.com", "https://b.example.com/x"],
        jwt_groups_filter=["g"],
        description="d",
    )

    assert not served.public


def test_identity_providers_of_the_settings_may_be_named() -> None:
    context = RouteContext(jwt_bearer=True, identity_providers=frozenset({"p"}))

    assert good(context, identity_providers=["p"])


@pytest.mark.parametrize(
    "policy",
    [
        {"source_ppl": "deny: {or: [{source_ip: 10.0.0.0/8}]}"},
        {"source_ppl": "not: [a policy"},
        {"rego": ["deny = true"]},
    ],
)
def test_a_public_route_whose_policy_may_deny_asks_about_every_request(policy: dict[str, Any]) -> None:
    """P-25, P-27: neither a deny nor a policy that cannot be used may be passed by."""
    found = checked(allow_public_unauthenticated_access=True, policies=[policy])

    assert found.route is not None
    assert not found.route.public


def test_a_policy_that_accepts_everybody_makes_a_route_public() -> None:
    assert good(policies=[{"source_ppl": "allow: {and: [{accept: true}]}"}]).public
    assert not good(policies=[{"source_ppl": "allow: {and: [{accept: true}, {http_method: GET}]}"}]).public


def test_policies_for_export_open_nothing() -> None:
    """P-24: `ppl_policies` is written for others to read; what counts are `policies`, their Rego included."""
    everybody = b"allow: {and: [{accept: true}]}"

    exported = good(ppl_policies=[{"raw": base64.b64encode(everybody).decode()}])
    counted = good(policies=[{"rego": ["package pomerium.policy\ndefault deny := false\nallow := true"]}])

    assert not exported.public
    assert not evaluate(exported.access.policy, facts_of("A", {})).allow.value
    assert evaluate(counted.access.policy, facts_of("A", {})).allow.value


def test_a_faulty_policy_closes_its_route_and_names_the_place() -> None:
    """P-27: the route stays where it is, and nobody gets in."""
    found = checked(policies=[{"id": "p1", "source_ppl": "allow:\n  and:\n    - emails: a@b.c\n"}])

    assert found.route is not None
    assert found.route.access.policy.closed == "policy-invalid"
    (fault,) = [fault for fault in found.faults if not fault.warning]
    assert fault.field == "policy"
    assert "policy p1" in fault.reason
    assert "line 3" in fault.reason


def test_a_public_route_is_public_unless_client_certificates_are_asked_for() -> None:
    public: dict[str, Any] = {"allow_public_unauthenticated_access": True}

    assert good(**public).public
    assert not good(RouteContext(client_ca=True), **public).public
    assert not good(**public, tls_downstream_client_ca=CERT).public
    assert good(RouteContext(certificates_by_policy=True), **public, tls_downstream_client_ca=CERT).public
    assert good(RouteContext(client_ca=True, certificates_by_policy=True), **public).public


def test_a_route_may_have_an_authority_of_its_own() -> None:
    """Routes 1.2: 38, 39, the file wins; 84: a key pair that is missing is no reason to let everybody in."""

    def read_file(path: str) -> bytes:
        return CERT.encode()

    missing = checked(tls_downstream_client_ca_key_pair_id="gone", allow_public_unauthenticated_access=True)

    assert good().access.client_ca is None
    assert good(tls_downstream_client_ca=CERT).access.client_ca == CERT
    assert good(tls_downstream_client_ca=base64.b64encode(CERT.encode()).decode()).access.client_ca == CERT
    by_file = check_route(
        route(tls_downstream_client_ca="rubbish", tls_downstream_client_ca_file="/ca.pem"), read_file=read_file
    )
    assert by_file.route is not None
    assert by_file.route.access.client_ca == CERT
    assert missing.route is None
    assert [fault.field for fault in missing.faults] == ["tls_downstream_client_ca_key_pair_id"]


def test_an_authority_that_cannot_verify_anything_is_refused() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "odd")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1)).sign(key, None)

    found = checked(tls_downstream_client_ca=made.public_bytes(Encoding.PEM).decode())

    assert [(fault.field, fault.warning) for fault in found.faults] == [("tls_downstream_client_ca", False)]


# --- what a good route means -----------------------------------------------------------------------


def test_an_ordinary_route_has_ordinary_values() -> None:
    """A1."""
    served = good(id="r1", name="web")

    assert (served.id, served.name, served.stat_name, served.record_id) == ("r1", "web", "web", "c1")
    assert served.match == Match(MatchKind.PREFIX, "/")
    action = forward()
    assert (action.timeout, action.idle_timeout, action.append_forwarded_host) == (None, None, True)
    assert action.upgrades == (("websocket", False), ("spdy/3.1", False))
    assert action.host_rewrite == HostRewrite()
    assert action.upstream.load_balancing is LoadBalancing.ROUND_ROBIN


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"regex": "a", "path": "/b", "prefix": "/c"}, Match(MatchKind.REGEX, "a")),
        ({"path": "/b", "prefix": "/c"}, Match(MatchKind.PATH, "/b")),
        ({"prefix": "/c"}, Match(MatchKind.PREFIX, "/c")),
    ],
)
def test_one_matcher_counts(fields: dict[str, Any], match: Match) -> None:
    """Routes 3.4."""
    assert good(**fields).match == match


def test_redirect_wins_over_response_and_response_over_to() -> None:
    everything: dict[str, Any] = {"redirect": {"host_redirect": "n"}, "response": {"status": 200}, "to": ["http://a"]}

    assert isinstance(good(**everything).action, Redirect)
    assert isinstance(good(**(everything | {"redirect": {}})).action, DirectResponse)


def test_a_redirect_keeps_what_is_said_and_leaves_the_rest_alone() -> None:
    """A7, routes 1.3."""
    action = good(redirect={"host_redirect": "new.example.com", "response_code": 308, "strip_query": True}).action

    assert action == Redirect(host="new.example.com", code=308, strip_query=True)
    both = good(
        redirect={"https_redirect": False, "scheme_redirect": "x", "path_redirect": "/p", "prefix_rewrite": "/q"}
    )
    assert both.action == Redirect(https=False, path="/p")


@pytest.mark.parametrize(
    ("fields", "timeout", "idle"),
    [
        ({}, None, None),
        ({"timeout": "90s"}, 90, None),
        ({"timeout": "0s", "idle_timeout": "0s"}, 0, 0),
        ({"allow_websockets": True}, 0, 0),
        ({"allow_websockets": True, "timeout": "5s"}, 5, 0),
        ({"allow_spdy": True}, None, None),
        ({"idle_timeout": "7s"}, None, 7),
    ],
)
def test_timeouts_follow_the_table(fields: dict[str, Any], timeout: int | None, idle: int | None) -> None:
    """Routes 6.1, R-10."""

    def seconds(value: int | None) -> timedelta | None:
        return None if value is None else timedelta(seconds=value)

    action = forward(**fields)

    assert (action.timeout, action.idle_timeout) == (seconds(timeout), seconds(idle))


def test_upgrades_are_explicit_and_each_is_named_once() -> None:
    """Routes 6.2: the route's list replaces the settings', even when it is empty."""
    context = RouteContext(allow_upgrades=("WebSocket", "custom"))

    def upgrades(**fields: Any) -> tuple[tuple[str, bool], ...]:
        action = good(context, **fields).action
        assert isinstance(action, Forward)
        return action.upgrades

    assert upgrades() == (("websocket", True), ("spdy/3.1", False), ("custom", True))
    assert upgrades(allow_upgrades={}) == (("websocket", False), ("spdy/3.1", False))
    assert upgrades(allow_upgrades={"values": ["", "A", "a", "SPDY/3.1"]}) == (
        ("websocket", False),
        ("spdy/3.1", True),
        ("A", True),
    )


def test_websockets_need_http_1_upstream() -> None:
    """A4."""
    assert forward(to=["https://ws.internal"], allow_websockets=True).upstream.http1_only
    assert not forward(to=["https://ws.internal"]).upstream.http1_only


def test_the_path_of_the_first_upstream_is_a_rewrite_unless_another_is_set() -> None:
    """Routes 4.2."""
    to = ["https://u.internal/base/", "https://v.internal/other"]

    assert forward(to=to).prefix_rewrite == "/base/"
    assert forward(to=to, prefix_rewrite="/x").prefix_rewrite == "/x"
    by_regex = forward(to=to, regex_rewrite_pattern="^/(a)$", regex_rewrite_substitution=r"/\1\\")
    assert (by_regex.prefix_rewrite, by_regex.regex_rewrite, by_regex.regex_substitution) == ("", "^/(a)$", r"/\1\\")
    assert forward(to=["unix:///run/app.sock"]).prefix_rewrite == ""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"host_rewrite": "h", "host_rewrite_header": "X", "preserve_host_header": True}, HostRewrite(literal="h")),
        ({"host_rewrite_header": "X", "host_path_regex_rewrite_pattern": "a"}, HostRewrite(header="X")),
        (
            {"host_path_regex_rewrite_pattern": "^/(.*)$", "host_path_regex_rewrite_substitution": r"\1"},
            HostRewrite(path_regex="^/(.*)$", path_substitution=r"\1"),
        ),
        ({"preserve_host_header": True}, HostRewrite(preserve=True)),
    ],
)
def test_the_first_host_rewrite_counts(fields: dict[str, Any], expected: HostRewrite) -> None:
    assert forward(**fields).host_rewrite == expected


def test_the_name_to_verify_upstream_can_be_overridden() -> None:
    """Routes 9.3, A10: field 57 wins over 15, both over the URL's host."""

    def name(**fields: Any) -> str:
        return forward(to=["https://10.1.2.3:8443"], **fields).upstream.endpoints[0].server_name

    assert name() == "10.1.2.3"
    assert name(tls_server_name="old") == "old"
    assert name(tls_server_name="old", tls_upstream_server_name="new") == "new"
    assert forward(to=["http://a"], tls_server_name="x").upstream.endpoints[0].server_name == ""


def test_tls_material_may_be_pem_or_base64_of_pem() -> None:
    """R-3, A10."""

    def b64(text: str) -> str:
        return base64.b64encode(text.encode()).decode()

    plain = forward(tls_custom_ca=CERT, tls_client_cert=CERT, tls_client_key=KEY).upstream.tls
    coded = forward(tls_custom_ca=b64(CERT), tls_client_cert=b64(CERT), tls_client_key=b64(KEY)).upstream.tls

    assert plain == coded
    assert (plain.custom_ca, plain.client_certificate, plain.client_key) == (CERT, CERT, KEY)
    assert KEY not in repr(plain)


def test_files_are_read_through_the_reader_and_are_part_of_the_route() -> None:
    files = {"/ca.pem": CERT.encode(), "/c.pem": CERT.encode(), "/k.pem": KEY.encode()}
    fields: dict[str, Any] = {
        "tls_custom_ca_file": "/ca.pem",
        "tls_client_cert_file": "/c.pem",
        "tls_client_key_file": "/k.pem",
    }

    first = checked(read_file=files.__getitem__, **fields)
    files["/ca.pem"] = OTHER_CERT.encode()
    second = checked(read_file=files.__getitem__, **fields)

    assert first.route.action.upstream.tls.custom_ca == CERT
    assert second.route.action.upstream.tls.custom_ca == OTHER_CERT
    assert first.route.key != second.route.key
    assert set(first.files) == set(files)


def test_a_file_that_cannot_be_read_is_named_and_a_control_plane_takes_files_on_trust() -> None:
    def missing(path: str) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", path)

    fields: dict[str, Any] = {
        "tls_custom_ca_file": "/ca.pem",
        "tls_client_cert_file": "/c.pem",
        "tls_client_key_file": "/k.pem",
    }
    refused = checked(read_file=missing, **fields)

    assert [(fault.field, "No such file" in fault.reason) for fault in refused.faults] == [
        ("tls_client_cert_file", True),
        ("tls_client_key_file", True),
        ("tls_custom_ca_file", True),
    ]
    assert checked(read_file=None, **fields).route is not None


def test_balancing_checks_and_breakers_reach_the_upstream() -> None:
    """A11, routes 1.4, 1.5."""
    upstream = forward(
        to=["http://10.0.0.1,10", "http://10.0.0.2,30"],
        load_balancing_policy="LOAD_BALANCING_POLICY_RING_HASH",
        healthy_panic_threshold=50,
        health_checks=[GOOD_CHECK],
        outlier_detection={"consecutive_5xx": 3, "max_ejection_percent": 100},
        circuit_breaker_thresholds={"max_connections": 0},
    ).upstream

    assert [endpoint.weight for endpoint in upstream.endpoints] == [10, 30]
    assert upstream.load_balancing is LoadBalancing.RING_HASH
    assert upstream.healthy_panic_threshold == 50
    assert HealthCheck.FromString(upstream.health_checks[0]).http_health_check.path == "/healthz"
    assert OutlierDetection.FromString(upstream.outlier_detection).consecutive_5xx.value == 3
    assert upstream.circuit_breakers == CircuitBreakers(max_connections=0)


def test_several_checks_carry_the_names_that_envoy_demands() -> None:
    """Found by e2e: Envoy 1.40 refuses a cluster with two nameless checks."""
    one = forward(health_checks=[GOOD_CHECK]).upstream.health_checks
    two = forward(health_checks=[GOOD_CHECK, GOOD_CHECK]).upstream.health_checks

    assert b"check-" not in one[0]
    assert [check.removeprefix(one[0]) for check in two] == [b"\xda\x01\x07check-0", b"\xda\x01\x07check-1"]


def test_grpc_checks_are_for_upstreams_that_speak_http_2() -> None:
    check = GOOD_CHECK | {"grpc_health_check": {"service_name": "s"}}
    del check["http_health_check"]

    assert forward(to=["h2c://grpc.internal:9090"], health_checks=[check])
    assert forward(to=["https://grpc.internal"], health_checks=[check])
    assert checked(to=["https://grpc.internal"], allow_websockets=True, health_checks=[check]).route is None


def test_an_unknown_balancing_policy_is_refused_rather_than_guessed() -> None:
    message = route()
    message.load_balancing_policy = 77  # type: ignore[assignment]  # as a newer control plane might

    assert check_route(message).route is None


def test_response_headers_are_kept_raw_and_sorted() -> None:
    """R-12, R-13: `%` is escaped and `disable` is understood where Envoy's resources are built."""
    served = good(
        set_response_headers={"X-B": "100% ok", "X-A": "1", "disable": "true"},
        rewrite_response_headers=[{"header": "Location", "prefix": "http://a", "value": "https://b"}, {"header": "X"}],
    )

    assert list(served.set_response_headers.items()) == [("X-A", "1"), ("X-B", "100% ok"), ("disable", "true")]
    assert served.rewrite_response_headers == (
        HeaderRewrite(header="Location", value="https://b", prefix="http://a"),
        HeaderRewrite(header="X", value="", prefix=None),
    )


# --- identity --------------------------------------------------------------------------------------


def test_a_route_without_an_id_gets_one_from_what_it_matches_and_where_it_leads() -> None:
    """Routes 1.2, field 28; R-29: a rename changes nothing."""
    plain = route_id(route())

    assert plain == route_id(route(name="renamed", timeout="5s"))
    others = [
        route(from_="https://other.example.com"),
        route(prefix="/a"),
        route(path="/a"),
        route(regex="/a"),
        route(to=["http://b"]),
        route(redirect={"path_redirect": "/"}),
        route(response={"status": 200}),
    ]
    assert len({plain, *map(route_id, others)}) == 1 + len(others)
    assert route_id(route(id="mine")) == "mine"


def test_equal_keys_mean_equal_routes() -> None:
    assert good(id="r").key == good(id="r").key
    assert good(id="r").key != good(id="r", prefix="/a").key
    assert good(id="r").key != good(RouteContext(allow_upgrades=("x",)), id="r").key
    public: dict[str, Any] = {"id": "r", "allow_public_unauthenticated_access": True}
    assert good(**public).key != good(RouteContext(client_ca=True), **public).key


def test_no_fault_repeats_a_secret() -> None:
    outcome = checked(
        from_="https://user:hunter2@app.example.com",
        to=["http://user:hunter2@app.internal/"],
        tls_client_key="hunter2",
        tls_client_cert="hunter2",
        tls_custom_ca="hunter2",
        set_request_headers={"Authorization": "hunter2\n"},
        depends_on=["https://user:hunter2@/"],
    )

    assert len(outcome.faults) >= 6
    assert "hunter2" not in "".join(str(fault) for fault in outcome.faults)
