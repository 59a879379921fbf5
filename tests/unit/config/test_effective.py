"""The settings in force (R-4, routes 1.7): what they mean, and that a bad one spoils nothing else."""

import base64
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pomerium_agent.config.action import CircuitBreakers, Forward
from pomerium_agent.config.addresses import parse_address
from pomerium_agent.config.complaints import Unusable
from pomerium_agent.config.snapshot import Address, Codec, DnsOptions, EscapedSlashes, Fault, Settings, Underscores
from pomerium_agent.config.trust import ClientCertificates, ClientTrust, Enforcement, NamePattern, NameType
from pomerium_agent.settings import Local
from tests.fakes.client_certificates import root
from tests.fakes.config_records import compiled, config, issue, route

CA = issue("ca.example.com")[0].decode()
AUTHORITY = root("clients")
RSA_CERTIFICATE, RSA_KEY = (pem.decode() for pem in issue("rsa.example.com", rsa_bits=2048))
P_384_KEY = (
    ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
)
EC_KEY = (
    ec.generate_private_key(ec.SECP256R1())
    .private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    .decode()
)


def effective(local: Local | None = None, **fields: Any) -> tuple[Settings, tuple[Fault, ...]]:
    snapshot, faults = compiled(config("c", **fields), local=local)
    return snapshot.settings, faults


def plain() -> Settings:
    return compiled()[0].settings


MEANINGS: list[tuple[dict[str, Any], str, object]] = [
    ({"address": ":8443"}, "address", Address(port=8443)),
    ({"address": "127.0.0.1:8443"}, "address", Address(host="127.0.0.1", port=8443)),
    ({"address": "[::]:443"}, "address", Address(host="::", port=443)),
    ({"address": "127.0.0.1"}, "address", Address(host="127.0.0.1", port=443)),
    ({"address": "127.0.0.1", "insecure_server": True}, "address", Address(host="127.0.0.1", port=80)),
    ({"address": ""}, "address", Address()),
    ({"insecure_server": True}, "insecure_server", True),
    ({"http_redirect_addr": ":80"}, "http_redirect", Address(port=80)),
    ({"http_redirect_addr": '":8080"'}, "http_redirect", Address(port=8080)),
    ({"http_redirect_addr": ""}, "http_redirect", None),
    ({"grpc_address": ":9000"}, "grpc_address", Address(port=9000)),
    ({"grpc_address": "127.0.0.1"}, "grpc_address", Address(host="127.0.0.1", port=5443)),
    ({"grpc_address": ""}, "grpc_address", None),
    ({"grpc_insecure": False}, "grpc_insecure", False),
    ({"log_level": "WARN"}, "log_level", "warn"),
    ({"log_level": ""}, "log_level", "info"),
    ({"log_level": "error"}, "proxy_log_level", "error"),
    ({"log_level": "error", "proxy_log_level": "debug"}, "proxy_log_level", "debug"),
    ({"access_log_fields": {"values": ["path", "headers.X-A", "path"]}}, "access_log_fields", ("path", "headers.X-A")),
    ({"access_log_fields": {}}, "access_log_fields", ()),
    ({"certificate_authority": CA}, "certificate_authority", CA),
    ({"certificate_authority": ""}, "certificate_authority", ""),
    ({"timeout_read": "0s"}, "timeout_read", timedelta(0)),
    ({"timeout_write": "1.5s"}, "timeout_write", timedelta(seconds=1.5)),
    ({"timeout_idle": "60s"}, "timeout_idle", timedelta(seconds=60)),
    ({"default_upstream_timeout": "5s"}, "default_upstream_timeout", timedelta(seconds=5)),
    ({"grpc_client_timeout": "0s"}, "grpc_client_timeout", timedelta(seconds=30)),
    ({"cookie_name": "_mine"}, "cookie_name", "_mine"),
    ({"cookie_name": ""}, "cookie_name", "_pomerium"),
    ({"authenticate_service_url": "https://auth.example.com"}, "hosts_of_authenticate", ()),
    (
        {"authenticate_service_url": "https://Auth.example.com", "idp_provider": "google"},
        "hosts_of_authenticate",
        ("auth.example.com",),
    ),
    (
        {"authenticate_service_url": "https://auth.example.com:8443", "idp_provider": "google"},
        "hosts_of_authenticate",
        ("auth.example.com:8443",),
    ),
    ({"authenticate_service_url": "https://authenticate.pomerium.app"}, "hosts_of_authenticate", ()),
    ({"pass_identity_headers": True}, "pass_identity_headers", True),
    ({"jwt_claims_headers": {"X-Email": "email"}}, "jwt_claims_headers", {"X-Email": "email"}),
    ({"set_response_headers": {"X-Note": "100% ok"}}, "set_response_headers", {"X-Note": "100% ok"}),
    ({"set_response_headers": {"disable": "true"}}, "set_response_headers", {"disable": "true"}),
    ({}, "set_response_headers", None),
    ({"codec_type": "CODEC_TYPE_HTTP2"}, "codec", Codec.HTTP2),
    ({"use_proxy_protocol": True}, "use_proxy_protocol", True),
    ({"skip_xff_append": True}, "skip_xff_append", True),
    ({"xff_num_trusted_hops": 2}, "xff_trusted_hops", 2),
    ({"normalize_path": False}, "normalize_path", False),
    ({"merge_slashes": False}, "merge_slashes", False),
    (
        {"path_with_escaped_slashes_action": "PATH_WITH_ESCAPED_SLASHES_ACTION_UNKNOWN"},
        "escaped_slashes",
        EscapedSlashes.IMPLEMENTATION_SPECIFIC_DEFAULT,
    ),
    (
        {"path_with_escaped_slashes_action": "PATH_WITH_ESCAPED_SLASHES_ACTION_UNESCAPE_AND_FORWARD"},
        "escaped_slashes",
        EscapedSlashes.UNESCAPE_AND_FORWARD,
    ),
    (
        {"headers_with_underscores_action": "HEADERS_WITH_UNDERSCORES_ACTION_UNKNOWN"},
        "underscores",
        Underscores.ALLOW,
    ),
    (
        {"headers_with_underscores_action": "HEADERS_WITH_UNDERSCORES_ACTION_DROP_HEADER"},
        "underscores",
        Underscores.DROP_HEADER,
    ),
    ({"circuit_breaker_thresholds": {"max_requests": 5}}, "circuit_breakers", CircuitBreakers(max_requests=5)),
    ({"envoy_bind_config_source_address": "192.0.2.1"}, "bind_source_address", "192.0.2.1"),
    ({"envoy_bind_config_freebind": False}, "bind_freebind", False),
    ({"signing_key": EC_KEY}, "signing_key", EC_KEY),
    ({"signing_key": RSA_KEY}, "signing_key", RSA_KEY),
    ({"dns_lookup_family": "v6_only"}, "dns", DnsOptions(lookup_family="V6_ONLY")),
    (
        {"dns_udp_max_queries": 0, "dns_use_tcp": True, "dns_query_tries": 2, "dns_query_timeout": "2.9s"},
        "dns",
        DnsOptions(udp_max_queries=0, use_tcp=True, query_tries=2, query_timeout=timedelta(seconds=2)),
    ),
    (
        {"dns_refresh_rate": "1s", "dns_failure_refresh_rate": "0.5s"},
        "dns",
        DnsOptions(refresh_rate=timedelta(seconds=1), failure_refresh_rate=timedelta(seconds=0.5)),
    ),
]


@pytest.mark.parametrize(("fields", "attribute", "expected"), MEANINGS)
def test_a_setting_means_what_the_table_says(fields: dict[str, Any], attribute: str, expected: object) -> None:
    settings, faults = effective(**fields)

    assert not faults
    assert getattr(settings, attribute) == expected


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"address": "example.com:443"}, "address", "IP address"),
    ({"address": ":99999"}, "address", "port"),
    ({"http_redirect_addr": ":0"}, "http_redirect", "port"),
    ({"grpc_address": "db.example.com:1"}, "grpc_address", "IP address"),
    ({"log_level": "loud"}, "log_level", "not a log level"),
    ({"certificate_authority": "junk!"}, "certificate_authority", "neither PEM"),
    ({"timeout_read": "-1s"}, "timeout_read", "negative"),
    ({"default_upstream_timeout": "-1s"}, "default_upstream_timeout", "negative"),
    ({"cookie_name": "a b"}, "cookie_name", "not a name"),
    ({"authenticate_service_url": "ftp://x"}, "login", "neither http"),
    ({"authenticate_service_url": "https://*"}, "login", "wildcard"),
    ({"authenticate_service_url": "https://*.example.com"}, "login", "wildcard"),
    ({"authenticate_service_url": "::"}, "login", "not a URL"),
    ({"authenticate_internal_service_url": "nowhere"}, "hosts_of_authenticate", "not a URL"),
    ({"jwt_claims_headers": {"a b": "x"}}, "jwt_claims_headers", "not a header name"),
    ({"set_response_headers": {"X": "a\n"}}, "set_response_headers", "line break"),
    ({"set_response_headers": {"Host": "a"}}, "set_response_headers", "cannot be set"),
    ({"envoy_bind_config_source_address": "eth0"}, "bind_source_address", "not an IP"),
    ({"signing_key": P_384_KEY}, "signing_key", "P-256"),
    ({"signing_key": EC_KEY + P_384_KEY}, "signing_key", "P-256"),
    ({"signing_key": EC_KEY + "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"}, "signing_key", "read"),
    ({"signing_key": RSA_CERTIFICATE}, "signing_key", "no private key"),
    ({"dns_lookup_family": "V7"}, "dns", "not a lookup family"),
    ({"dns_query_tries": 0}, "dns", "zero"),
    ({"dns_query_timeout": "-1s"}, "dns", "negative"),
    ({"dns_query_timeout": "0.5s"}, "dns", "below one second"),
    ({"dns_refresh_rate": "0.001s"}, "dns", "above one millisecond"),
]


@pytest.mark.parametrize(("fields", "attribute", "complaint"), REFUSED)
def test_a_bad_setting_keeps_its_value_and_the_rest_applies(
    fields: dict[str, Any], attribute: str, complaint: str
) -> None:
    """R-4, routes 2.3: without a snapshot from before, its default."""
    snapshot, faults = compiled(config("c", route(id="r"), xff_num_trusted_hops=7, **fields))

    assert [(complaint in fault.reason, fault.subject, fault.record_id) for fault in faults] == [
        (True, "settings", "c")
    ]
    assert getattr(snapshot.settings, attribute) == getattr(plain(), attribute)
    assert snapshot.settings.xff_trusted_hops == 7
    assert [r.id for r in snapshot.routes] == ["r"]


def test_a_setting_that_turns_bad_keeps_its_value_from_before() -> None:
    good = {
        "address": ":8443",
        "cookie_name": "mine",
        "dns_lookup_family": "V4_ONLY",
        "authenticate_service_url": "https://a.example.com",
    }
    bad = {
        "address": "nowhere:1",
        "cookie_name": "a b",
        "dns_lookup_family": "no",
        "authenticate_service_url": "no",
    }
    before, _ = compiled(config("c", **good))

    after, faults = compiled(config("c", **bad), previous=before)

    assert after.settings == before.settings
    assert len(faults) == len(bad)


def test_an_unknown_choice_of_a_newer_control_plane_is_refused() -> None:
    from pomerium_agent.config.digest import CONFIG
    from pomerium_agent.pb.pomerium import config_pb2
    from pomerium_agent.records import Record, pack

    message = config_pb2.Config()
    message.settings.codec_type = 9  # type: ignore[assignment]  # as a newer control plane might

    snapshot, faults = compiled(Record(type=CONFIG, id="c", data=pack(message)))

    assert snapshot.settings.codec is Codec.AUTO
    assert ["not a known choice" in fault.reason for fault in faults] == [True]


def test_what_this_machine_says_wins_over_every_record() -> None:
    local = Local(address="127.0.0.1:9443", http_redirect_addr="127.0.0.1:9080")

    settings, faults = effective(local, address=":443", http_redirect_addr=":80")

    assert not faults
    assert settings.address == Address(host="127.0.0.1", port=9443)
    assert settings.http_redirect == Address(host="127.0.0.1", port=9080)


def test_the_databroker_is_not_served_in_the_place_of_visitors() -> None:
    """As an address of its own the reference takes :443 too; here that would keep Envoy from it."""
    settings, faults = effective(grpc_address=":443", http_redirect_addr=":80")
    assert settings.grpc_address is None
    assert [(fault.field, fault.warning) for fault in faults] == [("grpc_address", True)]

    settings, faults = effective(Local(grpc_address="127.0.0.1:80"), http_redirect_addr=":80")
    assert settings.grpc_address is None
    assert faults

    settings, faults = effective(Local(grpc_address="127.0.0.1:5000"), grpc_address=":443")
    assert settings.grpc_address == Address(host="127.0.0.1", port=5000)
    assert not faults


def test_a_bad_local_address_is_named_and_the_records_decide() -> None:
    settings, faults = effective(Local(address="nowhere"), address=":8443")

    assert settings.address == Address(port=8443)
    assert [(fault.subject, fault.field) for fault in faults] == [("this machine", "ADDRESS")]


def test_flags_replace_the_whole_set_and_those_switched_off_are_named() -> None:
    """Routes 1.7, field 118."""
    settings, faults = effective(runtime_flags={"mcp": False})

    assert not settings.match_any_incoming_port
    assert [fault.warning for fault in faults] == [True]
    assert "match_any_incoming_port" in faults[0].reason
    assert "mcp," not in faults[0].reason
    assert effective(runtime_flags={"match_any_incoming_port": True})[0].match_any_incoming_port


def test_log_fields_that_do_not_exist_are_named_and_left_out() -> None:
    settings, faults = effective(access_log_fields={"values": ["path", "pth", "headers."]})

    assert settings.access_log_fields == ("path",)
    assert [fault.warning for fault in faults] == [True]


def test_where_client_certificates_are_demanded_nothing_is_open() -> None:
    """P-20: unless the policies decide."""
    public = route(id="r", allow_public_unauthenticated_access=True)

    def is_public(**mtls: Any) -> bool:
        snapshot, faults = compiled(config("c", public, downstream_mtls=mtls))
        assert not faults
        return snapshot.routes[0].public

    assert not is_public(ca=CA)
    assert not is_public(ca=CA, enforcement="REJECT_CONNECTION")
    assert is_public(ca=CA, enforcement="POLICY")
    assert is_public(enforcement="REJECT_CONNECTION")
    assert is_public()


def client_certificates(**mtls: Any) -> tuple[ClientCertificates, list[str]]:
    snapshot, faults = effective(downstream_mtls=mtls)
    assert not [fault for fault in faults if fault.warning]
    return snapshot.client_certificates, [fault.field for fault in faults]


def test_how_client_certificates_are_judged() -> None:
    """Routes 10, authorize 11: what is set, and what is not."""
    pattern = {"san_type": "USER_PRINCIPAL_NAME", "pattern": ".*@example.com"}
    crl = AUTHORITY.crl()

    assert client_certificates() == (ClientCertificates(), [])
    assert client_certificates(ca=base64.b64encode(CA.encode()).decode()) == (ClientCertificates(ca=CA), [])
    everything = {"ca": CA, "crl": crl, "match_subject_alt_names": [pattern], "max_verify_depth": 0}
    assert client_certificates(**everything, enforcement="POLICY") == (
        ClientCertificates(
            ca=CA,
            crl=crl,
            names=(NamePattern(NameType.PRINCIPAL, ".*@example.com"),),
            max_depth=0,
            enforcement=Enforcement.POLICY,
        ),
        [],
    )
    assert client_certificates(enforcement="REJECT_CONNECTION")[0].enforcement is Enforcement.REJECT_CONNECTION
    assert client_certificates(enforcement="UNKNOWN")[0].enforcement is Enforcement.DEFAULT_DENY


def test_an_authority_for_clients_that_cannot_be_read_trusts_nobody_and_spoils_nothing_else() -> None:
    """A-18, A-33: routes with an authority of their own go by that."""
    for mtls, field in (({"ca": "junk"}, "ca"), ({"ca_key_pair_id": "gone"}, "ca_key_pair_id")):
        found, fields = client_certificates(**mtls)

        assert fields == [f"downstream_mtls.{field}"]
        assert found == ClientCertificates(ca="")
        assert found.trust(None) == ClientTrust(ca="")
        assert found.trust(CA) == ClientTrust(ca=CA)
        snapshot, _ = compiled(
            config("c", route(id="r", allow_public_unauthenticated_access=True), downstream_mtls=mtls)
        )
        assert not snapshot.routes[0].public


@pytest.mark.parametrize(
    ("broken", "field"),
    [
        ({"crl": "junk"}, "crl"),
        ({"crl": CA}, "crl"),
        ({"crl": AUTHORITY.crl() + CA}, "crl"),
        ({"crl": AUTHORITY.crl() + "and more"}, "crl"),
        ({"crl": "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----"}, "crl"),
        ({"match_subject_alt_names": [{"san_type": "DNS", "pattern": "("}]}, "match_subject_alt_names"),
        ({"match_subject_alt_names": [{"san_type": "DNS", "pattern": "a)|(b"}]}, "match_subject_alt_names"),
        ({"match_subject_alt_names": [{"pattern": "a"}]}, "match_subject_alt_names"),
        ({"max_verify_depth": 101}, "max_verify_depth"),
    ],
    ids=(
        "junk",
        "ca",
        "crl-and-ca",
        "crl-and-more",
        "not-der",
        "bad-regex",
        "two-in-one",
        "no-type",
        "depth",
    ),
)
def test_what_holds_for_all_authorities_and_cannot_be_read_lets_nobody_in(broken: dict[str, Any], field: str) -> None:
    """A-18: not even with the value from before, which may let in somebody whom the new one keeps out."""
    before, _ = compiled(config("c", downstream_mtls={"ca": CA}))

    snapshot, faults = compiled(config("c", downstream_mtls={"ca": CA} | broken), previous=before)

    found = snapshot.settings.client_certificates
    assert [(fault.field, fault.warning) for fault in faults] == [(f"downstream_mtls.{field}", False)]
    assert not found.usable
    assert found.trust(None) == ClientTrust()
    assert found.trust(CA) == ClientTrust()
    assert ClientCertificates(usable=False).trust(None) is None, "where none is asked for, none is needed"


def test_upgrades_of_the_settings_hold_for_every_route() -> None:
    snapshot, _ = compiled(config("c", route(id="r"), allow_upgrades={"values": ["websocket"]}))

    action = snapshot.routes[0].action
    assert isinstance(action, Forward)
    assert action.upgrades[0] == ("websocket", True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("::1", Address(host="::1", port=443)),
        ("[::1]", Address(host="::1", port=443)),
        ("localhost:80", Address(host="127.0.0.1", port=80)),
        (":https", Address(port=443)),
        ("", Address(port=443)),
    ],
)
def test_addresses_may_be_written_in_many_ways(text: str, expected: Address) -> None:
    assert parse_address(text, default_port=443) == expected


@pytest.mark.parametrize("text", ["[::1", "[::1]x", "1.2.3.4.5:1", ":x", "a:b:c:d"])
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Unusable):
        parse_address(text, default_port=443)


def test_keys_behind_the_first_are_there_to_be_published_and_sign_nothing() -> None:
    """A-23, authenticate 8.8: private and public ones and certificates; what OpenSSL says of a curve is no key."""
    curve = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    settings, faults = effective(signing_key=curve + EC_KEY + RSA_KEY + RSA_CERTIFICATE)

    assert not faults
    assert settings.signing_key.startswith(EC_KEY)
    assert settings.signing_key.count("PRIVATE KEY-----") == 2  # the first one's beginning and end
    assert settings.signing_key.count("BEGIN PUBLIC KEY") == 2


def test_no_setting_shows_a_secret() -> None:
    settings, faults = effective(signing_key="hunter2")

    assert "hunter2" not in "".join(map(str, faults))
    assert EC_KEY not in repr(effective(signing_key=EC_KEY)[0])
    assert settings.signing_key == ""


def test_nothing_stands_where_visitors_are_served() -> None:
    """Routes 7: least of all Envoy's admin, which on loopback would meet whoever comes from this machine."""
    settings, faults = effective(address=":8443", http_redirect_addr=":8443", envoy_admin_address="127.0.0.1:8443")
    assert (settings.http_redirect, settings.envoy_admin) == (None, None)
    assert [(fault.field, fault.warning) for fault in faults] == [
        ("http_redirect_addr", True),
        ("envoy_admin_address", True),
    ]

    settings, faults = effective(metrics_address="127.0.0.1:9902", envoy_admin_address="127.0.0.1:9902")
    assert settings.metrics is not None
    assert settings.envoy_admin is None
    assert [fault.field for fault in faults] == ["envoy_admin_address"]

    settings, faults = effective(http_redirect_addr=":80", envoy_admin_address="127.0.0.1:9901")
    assert settings.http_redirect == Address(port=80)
    assert settings.envoy_admin is not None
    assert faults == ()
