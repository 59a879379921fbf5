"""External identity providers of the settings: each usable by itself, or a fault by itself (routes 1.4, 188)."""

from typing import Any

import pytest

from pomerium_agent.config.snapshot import Fault, IdentityProvider, Settings
from tests.fakes.config_records import compiled, config, route

GOOD = {"issuer": "https://ci.example.com", "audiences": ["pomerium"]}


def providers(**named: dict[str, Any]) -> tuple[Settings, tuple[Fault, ...]]:
    snapshot, faults = compiled(config("c", identity_providers=named))
    return snapshot.settings, faults


def test_a_provider_is_what_tokens_are_verified_with() -> None:
    """Authorize 4.2: RS256, ES256 and EdDSA unless others are named."""
    full = GOOD | {"jwks_url": "https://ci.example.com/keys?v=1", "supported_algs": ["PS256"], "issuer": "https://b/x"}
    settings, faults = providers(ci=GOOD, full=full)

    assert not faults
    assert settings.identity_providers == (
        IdentityProvider(
            name="ci",
            issuer="https://ci.example.com",
            audiences=("pomerium",),
            algorithms=("RS256", "ES256", "EdDSA"),
        ),
        IdentityProvider(
            name="full",
            issuer="https://b/x",
            audiences=("pomerium",),
            jwks_url="https://ci.example.com/keys?v=1",
            algorithms=("PS256",),
        ),
    )


@pytest.mark.parametrize("issuer", ["http://127.0.0.1:8080", "http://localhost/x", "http://[::1]:1", "kubernetes:///"])
def test_issuers_of_this_machine_and_of_the_cluster_around_us_are_good(issuer: str) -> None:
    settings, faults = providers(p=GOOD | {"issuer": issuer})

    assert not faults
    assert settings.identity_providers[0].issuer == issuer


@pytest.mark.parametrize(
    ("name", "changed", "field"),
    [
        ("CI", {}, 'identity_providers["CI"]'),
        ("a/b", {}, 'identity_providers["a/b"]'),
        ("", {}, 'identity_providers[""]'),
        ("p", {"issuer": ""}, "issuer"),
        ("p", {"issuer": "ci.example.com"}, "issuer"),
        ("p", {"issuer": "http://ci.example.com"}, "issuer"),
        ("p", {"issuer": "https://ci.example.com?a=b"}, "issuer"),
        ("p", {"issuer": "https://u:p@ci.example.com"}, "issuer"),
        ("p", {"issuer": "https://[::1"}, "issuer"),
        ("p", {"issuer": "https://ci.example.com:x"}, "issuer"),
        ("p", {"issuer": "kubernetes://other/"}, "issuer"),
        ("p", {"jwks_url": "http://ci.example.com/keys"}, "jwks_url"),
        ("p", {"issuer": "kubernetes:///", "jwks_url": "https://ci.example.com/keys"}, "jwks_url"),
        ("p", {"audiences": []}, "audiences"),
        ("p", {"audiences": ["a", ""]}, "audiences"),
        ("p", {"supported_algs": ["RS256", "HS256"]}, "supported_algs"),
        ("p", {"supported_algs": ["none"]}, "supported_algs"),
        ("p", {"supported_algs": ["rs256"]}, "supported_algs"),
    ],
)
def test_a_bad_provider_stands_aside_and_no_other(name: str, changed: dict[str, Any], field: str) -> None:
    settings, faults = providers(**{name: GOOD | changed, "fine": GOOD | {"issuer": "https://fine.example.com"}})

    assert [provider.name for provider in settings.identity_providers] == ["fine"]
    assert [(fault.subject, fault.warning) for fault in faults] == [("settings", False)]
    assert faults[0].field.endswith(field)
    assert faults[0].remedy
    assert "u:p" not in str(faults[0])


def test_of_two_with_one_issuer_neither_counts() -> None:
    """Whose user somebody is must not depend on an order."""
    settings, faults = providers(a=GOOD, b=GOOD)

    assert settings.identity_providers == ()
    assert len(faults) == 2


def test_a_provider_that_was_good_is_gone_with_its_fault() -> None:
    before, _ = compiled(config("c", identity_providers={"ci": GOOD}))

    after, _ = compiled(config("c", identity_providers={"ci": GOOD | {"audiences": []}}), previous=before)

    assert after.settings.identity_providers == ()


def test_a_route_may_name_a_faulty_provider_and_serves_everybody_else() -> None:
    named = route(id="r", bearer_token_format="BEARER_TOKEN_FORMAT_JWT", identity_providers=["ci"])

    snapshot, faults = compiled(config("c", named, identity_providers={"ci": GOOD | {"audiences": []}}))

    assert snapshot.routes[0].access.identity_providers == ("ci",)
    assert not [fault for fault in faults if fault.route_id]
