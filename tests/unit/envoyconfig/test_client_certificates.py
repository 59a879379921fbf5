"""Whether Envoy asks for client certificates, and what it makes of them (routes 10, R-17)."""

from typing import Any

import pytest

from pomerium_agent.config.snapshot import Access, ConfigSnapshot
from pomerium_agent.config.trust import ClientCertificates, Enforcement, NamePattern, NameType
from pomerium_agent.envoyconfig.build import build_resources
from pomerium_agent.envoyconfig.client_certificates import CLIENT_CA
from pomerium_agent.envoyconfig.resources import CLUSTER, LISTENER, ROUTES, SECRET
from pomerium_agent.pb.envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2
from tests.fakes.snapshots import LOCAL, route, snapshot

STRICT = Enforcement.REJECT_CONNECTION
NOBODY = "0" * 64


def with_ca(ca: str | None = None, *own: str, **more: Any) -> ConfigSnapshot:
    routes = [route(f"r{n}", access=Access(client_ca=each)) for n, each in enumerate(own)]
    return snapshot(routes, client_certificates=ClientCertificates(ca=ca, **more))


def trusted(config: ConfigSnapshot) -> common_pb2.CertificateValidationContext | None:
    found = build_resources(config, LOCAL).of(SECRET).get(CLIENT_CA)
    return secret_pb2.Secret.FromString(found.body).validation_context if found is not None else None


def versions(config: ConfigSnapshot, type_url: str) -> dict[str, str]:
    return {name: each.version for name, each in build_resources(config, LOCAL).of(type_url).items()}


def test_nobody_is_asked_where_nobody_wants_to_know() -> None:
    """R-17: and then nothing else is different, whatever the settings say of certificates."""
    for config in (with_ca(), with_ca(enforcement=STRICT, crl="x", max_depth=3), with_ca(usable=False)):
        assert trusted(config) is None
        assert versions(config, LISTENER) == versions(snapshot(), LISTENER)
    plain = snapshot(insecure_server=True, client_certificates=ClientCertificates(ca="A", enforcement=STRICT))
    assert trusted(plain) is None
    assert versions(plain, LISTENER) == versions(snapshot(insecure_server=True), LISTENER)


def test_any_certificate_is_taken_and_left_to_the_agent() -> None:
    """R-17: names and lists are the agent's to look at."""
    found = trusted(with_ca("A", "C", "B", "B", crl="list", names=(NamePattern(NameType.DNS, "x"),)))

    assert found == common_pb2.CertificateValidationContext(
        trusted_ca={"inline_string": "A\nB\nC"},
        trust_chain_verification=common_pb2.CertificateValidationContext.ACCEPT_UNTRUSTED,
    )


def test_where_connections_are_rejected_envoy_verifies_by_all_that_is_known() -> None:
    """R-17."""
    names = (NamePattern(NameType.EMAIL, ".*@a"), NamePattern(NameType.PRINCIPAL, ".*@b"))
    found = trusted(with_ca("A", "B", crl="list", names=names, enforcement=STRICT))

    assert found is not None
    assert (found.trusted_ca.inline_string, found.crl.inline_string) == ("A\nB", "list")
    assert found.trust_chain_verification == found.VERIFY_TRUST_CHAIN
    assert (found.max_verify_depth.value, found.only_verify_leaf_cert_crl) == (1, True)
    assert [(each.matcher.safe_regex.regex, each.oid) for each in found.match_typed_subject_alt_names] == [
        (".*@a", ""),
        (".*@b", "1.3.6.1.4.1.311.20.2.3"),
    ]
    unlimited = trusted(with_ca("A", max_depth=0, enforcement=STRICT))
    assert unlimited is not None
    assert not unlimited.HasField("max_verify_depth")


@pytest.mark.parametrize("config", [with_ca("", enforcement=STRICT), with_ca("A", usable=False, enforcement=STRICT)])
def test_where_connections_are_rejected_and_nobody_can_be_verified_all_are(config: ConfigSnapshot) -> None:
    """A-18: without an authority, Envoy would take any certificate."""
    found = trusted(config)

    assert found is not None
    assert list(found.verify_certificate_hash) == [NOBODY]


def test_who_is_trusted_is_a_secret_and_changes_nothing_else() -> None:
    """R-17: nobody is drained for it."""
    before, after = with_ca("A", "B"), with_ca("A2", "B", crl="list", max_depth=2)

    for type_url in (LISTENER, CLUSTER, ROUTES):
        assert versions(before, type_url) == versions(after, type_url)
    assert {name for name, version in versions(after, SECRET).items() if versions(before, SECRET)[name] != version} == {
        CLIENT_CA
    }
    assert versions(before, LISTENER) != versions(with_ca(), LISTENER)
