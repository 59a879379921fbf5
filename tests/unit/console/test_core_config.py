"""The public Core configuration format: what becomes of each key, and what is said of those that are wrong."""

import base64
import json
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from pomerium_agent.console.convert import parse_duration
from pomerium_agent.console.core_config import CoreConfig, parse_core_config, read_core_config
from pomerium_agent.console.core_keys import LEFT_OUT, RUNTIME_FLAGS
from pomerium_agent.pb.pomerium import config_pb2
from tests.fakes.console import MIXED, QUICKSTART
from tests.samples import make_mixed

ROUTE = "routes:\n- from: https://app.example.com\n  to: http://app.internal\n"


def read(text: str, base: Path = Path()) -> CoreConfig:
    return parse_core_config(text, "config.yaml", base)


def accepted(text: str, base: Path = Path()) -> config_pb2.Config:
    found = read(text, base)
    assert [str(each) for each in found.complaints] == []
    return found.config


def route(*lines: str, base: Path = Path()) -> config_pb2.Route:
    return accepted(ROUTE + "".join(f"  {line}\n" for line in lines), base).routes[0]


def said(text: str, base: Path = Path()) -> list[str]:
    return [str(each) for each in read(text, base).complaints]


# --- what is read ---------------------------------------------------------------------------------


def test_the_quickstart_of_the_docs_is_understood() -> None:
    found = read_core_config(QUICKSTART)

    assert found.complaints == ()
    verify, hello = found.config.routes
    assert list(verify.to) == ["http://verify:8000"]
    assert verify.pass_identity_headers
    assert json.loads(verify.policies[0].source_ppl) == [{"allow": {"or": [{"email": {"is": "user@example.com"}}]}}]
    assert hello.allow_public_unauthenticated_access
    assert found.config.settings.authenticate_service_url == "https://authenticate.pomerium.app"


def test_two_hundred_routes_of_every_kind_are_understood() -> None:
    found = read_core_config(MIXED)

    assert found.complaints == ()
    assert len(found.config.routes) == 200
    assert MIXED.read_text() == make_mixed.text()


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("timeout: 1h30m", "timeout", "5400s"),
        ("timeout: 0", "timeout", "0s"),
        ("idle_timeout: 250ms", "idle_timeout", "0.250s"),
        ("prefix: /no", "prefix", "/no"),
        ("path: 014", "path", "014"),
        ("allow_websockets: true", "allow_websockets", True),
        ("pass_identity_headers: false", "pass_identity_headers", False),
        ("regex_priority_order: -3", "regex_priority_order", "-3"),
        ("load_balancing_policy: LEAST_REQUEST", "load_balancing_policy", "LOAD_BALANCING_POLICY_LEAST_REQUEST"),
        ("load_balancing_policy: ring_hash", "load_balancing_policy", "LOAD_BALANCING_POLICY_RING_HASH"),
        (
            "load_balancing_policy: LOAD_BALANCING_POLICY_MAGLEV",
            "load_balancing_policy",
            "LOAD_BALANCING_POLICY_MAGLEV",
        ),
        ("load_balancing_weights: [1, 2]", "load_balancing_weights", [1, 2]),
        ("jwt_issuer_format: uri", "jwt_issuer_format", "IssuerURI"),
        ("bearer_token_format: idp_access_token", "bearer_token_format", "BEARER_TOKEN_FORMAT_IDP_ACCESS_TOKEN"),
        ("set_request_headers: {X-N: 1, X-Y: no}", "set_request_headers", {"X-N": "1", "X-Y": "no"}),
        ("remove_request_headers: Cookie", "remove_request_headers", ["Cookie"]),
        ("allowed_users: [a@example.com]", "allowed_users", ["a@example.com"]),
        ("allowed_idp_claims: {groups: [a, b]}", "allowed_idp_claims", {"groups": ["a", "b"]}),
        ("outlier_detection: {consecutive_5xx: 12}", "outlier_detection", {"consecutive_5xx": 12}),
        ("outlier_detection: {}", "outlier_detection", {}),
        ("allow_upgrades: []", "allow_upgrades", {}),
        ("allow_upgrades: [websocket]", "allow_upgrades", {"values": ["websocket"]}),
        ("circuit_breaker_thresholds: {max_requests: 0}", "circuit_breaker_thresholds", {"max_requests": 0}),
        ("mcp: {client: {}}", "mcp", {"client": {}}),
        (
            "health_checks: [{timeout: 2s, unhealthyThreshold: 3, http_health_check: {path: /ok}}]",
            "health_checks",
            [{"timeout": "2s", "unhealthy_threshold": 3, "http_health_check": {"path": "/ok"}}],
        ),
        (
            "rewrite_response_headers: [{header: Location, prefix: 'http://a', value: 'https://b'}]",
            "rewrite_response_headers",
            [{"header": "Location", "prefix": "http://a", "value": "https://b"}],
        ),
        ("name: ~", "name", None),
    ],
)
def test_a_key_of_a_route_becomes_its_field(line: str, field: str, value: object) -> None:
    found = MessageToDict(route(line), preserving_proto_field_name=True)

    assert found.get(field) == value


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("log_level: debug", "log_level", "debug"),
        ("timeout_idle: 10m", "timeout_idle", "600s"),
        ("codec_type: http2", "codec_type", "CODEC_TYPE_HTTP2"),
        ("idp_scopes: [openid, email]", "scopes", ["openid", "email"]),
        ("idp_request_params: {prompt: login}", "request_params", {"prompt": "login"}),
        ("tls_derive: example.com", "derive_tls", "example.com"),
        ("access_log_fields: [path, duration]", "access_log_fields", {"values": ["path", "duration"]}),
        ("jwt_claims_headers: {X-Email: email}", "jwt_claims_headers", {"X-Email": "email"}),
        ("jwt_claims_headers: [email]", "jwt_claims_headers", {"X-Pomerium-Claim-Email": "email"}),
        ("otel_traces_sampler_arg: 0.25", "otel_traces_sampler_arg", 0.25),
        (
            "path_with_escaped_slashes_action: keep_unchanged",
            "path_with_escaped_slashes_action",
            "PATH_WITH_ESCAPED_SLASHES_ACTION_KEEP_UNCHANGED",
        ),
        (
            "downstream_mtls: {enforcement: reject_connection, match_subject_alt_names: [{dns: '.*'}]}",
            "downstream_mtls",
            {"enforcement": "REJECT_CONNECTION", "match_subject_alt_names": [{"san_type": "DNS", "pattern": ".*"}]},
        ),
        (
            "identity_providers: {ci: {issuer: 'https://ci.example.com', audiences: [a]}}",
            "identity_providers",
            {"ci": {"issuer": "https://ci.example.com", "audiences": ["a"]}},
        ),
    ],
)
def test_a_key_of_the_settings_becomes_its_field(line: str, field: str, value: object) -> None:
    found = MessageToDict(accepted(line).settings, preserving_proto_field_name=True)

    assert found[field] == value


def test_naming_one_flag_does_not_switch_the_others_off() -> None:
    """routes 1.7, 118: a replica takes a non-empty map for all there is."""
    flags = accepted("runtime_flags: {mcp: false}").settings.runtime_flags

    assert dict(flags) == RUNTIME_FLAGS | {"mcp": False}


def test_files_are_read_from_beside_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\n")
    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "config.yaml").write_text(
        ROUTE + "  tls_custom_ca_file: ca.pem\n  kubernetes_service_account_token_file: token\n"
        "certificates: [{cert: ca.pem, key: ca.pem}]\ncertificate_authority_file: ca.pem\n"
    )

    found = read_core_config(tmp_path / "config.yaml")

    assert found.complaints == ()
    (made,) = found.config.routes
    assert base64.b64decode(made.tls_custom_ca) == b"-----BEGIN CERTIFICATE-----\n"
    assert made.tls_custom_ca_file == ""
    assert made.kubernetes_service_account_token == "secret"
    assert found.config.settings.certificates[0].key_bytes == b"-----BEGIN CERTIFICATE-----\n"
    assert base64.b64decode(found.config.settings.certificate_authority).startswith(b"-----BEGIN")


def test_a_certificate_may_be_given_in_base64_with_its_key() -> None:
    pem = base64.b64encode(b"-----BEGIN").decode()

    settings = accepted(f"certificate: {pem}\ncertificate_key: {pem}\n").settings

    assert settings.certificates[0].cert_bytes == b"-----BEGIN"


def test_a_policy_keeps_its_meaning_whatever_its_layout() -> None:
    flow = route("policy: {allow: {and: [{domain: {is: example.com}}]}}")
    block = route("policy:", "  allow:", "    and:", "      - domain:", "          is: example.com")

    assert flow == block
    assert flow.policies[0].source_ppl == '{"allow":{"and":[{"domain":{"is":"example.com"}}]}}'


def test_routes_may_be_called_policy_as_they_once_were() -> None:
    found = read(ROUTE.replace("routes", "policy"))

    assert len(found.config.routes) == 1
    assert [each.warning for each in found.complaints] == [True]


# --- ids ------------------------------------------------------------------------------------------


def ids(text: str) -> dict[str, str]:
    return {f"{getattr(each, 'from')} {each.path} {each.to}": each.id for each in accepted(text).routes}


def test_an_id_of_ones_own_is_kept() -> None:
    assert route("id: mine").id == "mine"


def test_the_order_of_routes_does_not_change_their_ids() -> None:
    lines = [
        "- {from: https://a.example.com, to: http://a}",
        "- {from: https://a.example.com, to: http://b}",
        "- {from: https://a.example.com, to: http://c, path: /c}",
        "- {from: https://b.example.com, to: http://c}",
    ]

    forward, backward = ids("routes:\n" + "\n".join(lines)), ids("routes:\n" + "\n".join(reversed(lines)))

    assert forward == backward
    assert len(set(forward.values())) == 4


def test_an_edit_that_does_not_change_what_a_route_matches_keeps_its_id() -> None:
    plain, edited = route(), route("timeout: 5s", "allow_any_authenticated_user: true")

    assert plain.id == edited.id
    assert plain.id != route("prefix: /a").id


def test_the_same_route_twice_is_refused_with_both_lines() -> None:
    assert said(ROUTE + "- from: https://app.example.com\n  to: http://app.internal\n") == [
        "config.yaml:4: routes[1]: the same route is there already, by routes[0] in line 2; remove one of the two"
    ]


def test_an_id_is_taken_once() -> None:
    one, other = (f"- {{id: a, from: https://{host}.example.com, to: http://a}}\n" for host in "ab")

    (complaint,) = said(f"routes:\n{one}{other}")

    assert "the id a is taken, by routes[" in complaint


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            ROUTE + "  prefx: /a\n",
            "config.yaml:4: routes[0].prefx: the key prefx means nothing here; did you mean prefix?",
        ),
        (
            "log_levle: info\n",
            "config.yaml:1: log_levle: the key log_levle means nothing here; did you mean log_level?",
        ),
        (
            "timeout_idle: 5\n",
            "config.yaml:1: timeout_idle: '5' is not a duration; write a number with its unit: 30s, 1h30m, 250ms",
        ),
        (
            "insecure_server: yes\n",
            "config.yaml:1: insecure_server: 'yes' is neither true nor false; write true or false",
        ),
        (
            "insecure_server: 1\n",
            "config.yaml:1: insecure_server: '1' is neither true nor false; write true or false",
        ),
        (
            ROUTE + "  load_balancing_policy: FASTEST\n",
            "config.yaml:4: routes[0].load_balancing_policy: 'FASTEST' is not one of the choices; "
            "choose one of UNSPECIFIED, ROUND_ROBIN, MAGLEV, RANDOM, RING_HASH, LEAST_REQUEST",
        ),
        (
            ROUTE + "  redirect: {port_redirect: -1}\n",
            "config.yaml:4: routes[0].redirect.port_redirect: '-1' is out of range; give a number from 0 to 4294967295",
        ),
        (
            ROUTE + "  healthy_panic_threshold: half\n",
            "config.yaml:4: routes[0].healthy_panic_threshold: 'half' is not a whole number; write digits only",
        ),
        (
            ROUTE + "  health_checks:\n  - {http_health_check: {}, tcp_health_check: {}}\n",
            "config.yaml:5: routes[0].health_checks[0].tcp_health_check: http_health_check and tcp_health_check "
            "exclude each other; keep one",
        ),
        (
            ROUTE + "  timeout: [1s]\n",
            "config.yaml:4: routes[0].timeout: this is not a duration; write a number with its unit: 30s, 1h30m, 250ms",
        ),
        (
            ROUTE + "  redirect: https://b\n",
            "config.yaml:4: routes[0].redirect: this must be a mapping; write `key: value` lines below it",
        ),
        (
            ROUTE + "  prefix: {a: b}\n",
            "config.yaml:4: routes[0].prefix: this must be one value; write it on the line of its key",
        ),
        (
            ROUTE + "  set_response_headers: [a]\n",
            "config.yaml:4: routes[0].set_response_headers: this must be a mapping; write `key: value` lines below it",
        ),
        (
            ROUTE + "  policy: everybody\n",
            "config.yaml:4: routes[0].policy: a policy is one rule or a list of rules; "
            "write `- allow:` with `or:` and a list of criteria below it",
        ),
        (
            ROUTE + "  created_at: 2020-01-01\n",
            "config.yaml:4: routes[0].created_at: this is filled in by the control plane; remove it",
        ),
        (
            ROUTE + "  tls_custom_ca_file: nowhere.pem\n",
            "config.yaml:4: routes[0].tls_custom_ca_file: nowhere.pem cannot be read: No such file or directory; "
            "give a path that starts at this file's own folder",
        ),
        (
            ROUTE + "  tls_custom_ca_file: a\n  tls_custom_ca: b\n",
            "config.yaml:4: routes[0].tls_custom_ca_file: tls_custom_ca is given as well; keep one of the two",
        ),
        ("certificates: [{cert: a}]\n", "config.yaml:1: certificates[0]: key is missing; give the file of the key"),
        (
            "certificate_file: a\n",
            "config.yaml:1: certificate_file: certificate_file is useless without certificate_key_file; "
            "give certificate_key_file as well",
        ),
        (
            "certificate: '*'\ncertificate_key: ''\n",
            "config.yaml:1: certificate: this is not base64; encode the PEM file, or use certificate_file",
        ),
        ("routes: {from: a}\n", "config.yaml:1: routes: routes are a list; begin each route with `- from:`"),
        ("routes: [a]\n", "config.yaml:1: routes[0]: this must be a mapping; write `key: value` lines below it"),
        ("- a\n", "config.yaml:1: this must be a mapping; write `key: value` lines below it"),
    ],
)
def test_what_is_wrong_is_said_with_line_path_reason_and_remedy(text: str, complaint: str) -> None:
    found = read(text)

    assert [str(each) for each in found.complaints] == [complaint]
    assert found.refused


def test_everything_wrong_is_said_at_once() -> None:
    found = read(ROUTE + "  prefx: /a\n  timeout: soon\n- from: https://b.example.com\n  too: x\nlog_levle: info\n")

    assert [each.line for each in found.complaints] == [4, 5, 7, 8]


@pytest.mark.parametrize("key", sorted(LEFT_OUT))
def test_what_a_cluster_does_not_take_from_a_file_is_left_out_and_said(key: str) -> None:
    found = read(f"{key}: something\n")

    (complaint,) = found.complaints
    assert complaint.warning
    assert complaint.reason.startswith("left out: ")
    assert not found.refused
    assert found.config == config_pb2.Config()


def test_a_secret_does_not_show_in_a_complaint() -> None:
    text = "cookie_secret: [hunter2]\nidp_client_secret: {a: hunter2}\nmetrics_basic_auth: [hunter2]\n"

    assert "hunter2" not in " ".join(said(text))
    assert len(said(text)) == 3


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("1h30m", 5_400_000_000_000),
        ("1.5s", 1_500_000_000),
        ("-2ms", -2_000_000),
        ("100us", 100_000),
        ("100\N{MICRO SIGN}s", 100_000),
        ("7ns", 7),
        ("0", 0),
        (".5s", 500_000_000),
        ("5", None),
        ("", None),
        ("s", None),
        ("1d", None),
        ("1h x", None),
        ("9999999h", None),
    ],
)
def test_durations_are_read_as_go_writes_them(text: str, nanoseconds: int | None) -> None:
    assert parse_duration(text) == nanoseconds


def test_a_file_that_is_not_there_is_a_complaint_too(tmp_path: Path) -> None:
    found = read_core_config(tmp_path / "nowhere.yaml")

    assert found.refused
    assert "cannot be read: No such file" in str(found.complaints[0])


def test_a_key_in_the_place_of_its_file_is_not_shown(tmp_path: Path) -> None:
    """Somebody pastes base64 where a path belongs; the complaint must not quote it."""
    key = base64.b64encode(b"-----BEGIN PRIVATE KEY-----\nPLANTED\n-----END PRIVATE KEY-----\n").decode()
    file = tmp_path / "config.yaml"
    file.write_text(f"certificates: [{{cert: {key}, key: {key}}}]\n")

    complaints = [str(each) for each in read_core_config(file).complaints]

    assert len(complaints) == 2
    assert all("not the name of a file" in each for each in complaints)
    assert key[:40] not in "".join(complaints)
