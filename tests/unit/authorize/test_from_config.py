"""What authorization is told of the configuration about the tokens of others (authorize 4.2, 16)."""

from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import KeySet

from pomerium_agent.authorize.forwarded import is_ours
from pomerium_agent.authorize.from_config import RulesBuilder
from pomerium_agent.authorize.rules import RouteRules, Rules
from pomerium_agent.sessions.bearer import BearerFormat
from pomerium_agent.sessions.signer import Signer
from tests.fakes.config_records import NOW, compiled, config, issue, route
from tests.unit.authorize.asking import KEY, SIGNER

PROVIDERS = {
    "ci": {"issuer": "https://ci.example.com", "audiences": ["pomerium"], "supported_algs": ["ES256"]},
    "k8s": {"issuer": "kubernetes:///", "audiences": ["pomerium"]},
    "bad": {"issuer": "https://bad.example.com"},
}
JWT = "BEARER_TOKEN_FORMAT_JWT"


def rules(builder: RulesBuilder | None = None, *, given: dict[str, Any] | None = None, **fields: Any) -> Rules:
    snapshot, _ = compiled(config("c", route(id="r", **fields), identity_providers=PROVIDERS, **(given or {})))
    return (builder or RulesBuilder(shared_key=KEY, signer=SIGNER)).build(snapshot)


def one(given: dict[str, Any] | None = None, **fields: Any) -> RouteRules:
    return rules(given=given, **fields).routes["r"]


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"bearer_token_format": JWT}, ["ci", "k8s"]),
        ({"bearer_token_format": JWT, "identity_providers": ["ci"]}, ["ci"]),
        ({"bearer_token_format": JWT, "identity_providers": ["bad"]}, []),
        ({"bearer_token_format": JWT, "identity_providers": ["bad", "k8s"]}, ["k8s"]),
        ({"bearer_token_format": "BEARER_TOKEN_FORMAT_IDP_ACCESS_TOKEN"}, []),
    ],
)
def test_a_route_takes_the_providers_it_names_or_all(fields: dict[str, Any], names: list[str]) -> None:
    """Authorize 4.2: and never one that cannot be used."""
    found = one(**fields).bearer

    assert found is not None
    assert [provider.name for provider in found.providers] == names


def test_a_provider_is_told_as_configured() -> None:
    found = one(bearer_token_format=JWT, identity_providers=["ci"]).bearer

    assert found is not None
    (provider,) = found.providers
    assert (provider.issuer, provider.audiences) == ("https://ci.example.com", ("pomerium",))
    assert (provider.algorithms, provider.jwks_url) == (("ES256",), "")


def test_the_route_decides_what_a_bearer_is_and_else_the_settings() -> None:
    """Authorize 4.2, field 70 over setting 138."""
    assert one().bearer is None
    everywhere = {"bearer_token_format": JWT}
    assert one(given=everywhere, bearer_token_format="BEARER_TOKEN_FORMAT_DEFAULT").bearer is None
    found = one(given=everywhere | {"cookie_expire": "3600s"}).bearer
    assert found is not None
    assert (found.format, found.cookie_expire) == (BearerFormat.JWT, timedelta(hours=1))
    idp = one(bearer_token_format="BEARER_TOKEN_FORMAT_IDP_IDENTITY_TOKEN").bearer
    assert idp is not None
    assert (idp.format, idp.authenticate_url) == (BearerFormat.IDENTITY_TOKEN, "https://authenticate.pomerium.app")


@pytest.mark.parametrize("rsa_bits", [0, 2048])
def test_every_configured_key_is_published_and_the_first_one_signs(rsa_bits: int) -> None:
    """A-21, A-23: so that what an older key signed still verifies while keys are exchanged; by another library."""
    old, new = (issue(f"{name}.example.com", rsa_bits=rsa_bits)[1].decode() for name in ("old", "new"))
    builder = RulesBuilder(shared_key=KEY, signer=SIGNER)
    before, after = (rules(builder, given={"signing_key": keys}) for keys in (old, new + old))
    assert before.signer is not None
    assert after.signer is not None

    published = KeySet.import_key_set({"keys": [dict(key) for key in after.public_keys]})

    kids = [before.signer.kid, after.signer.kid, SIGNER.kid]
    assert [key.kid for key in published.keys] == [kids[1], kids[0], kids[2]]
    for signer in (before.signer, after.signer, SIGNER):
        token = jwt.decode(signer.sign({"sub": "ada"}), published, algorithms=["ES256", "RS256"])
        assert token.claims["sub"] == "ada"
        assert is_ours(signer.sign({"exp": 2**40}), after.public_keys, NOW)
    assert not is_ours(after.signer.sign({"exp": 2**40}), before.public_keys, NOW)


def test_a_kubernetes_route_has_its_token_and_another_content_is_another_rule() -> None:
    """A-33."""
    builder = RulesBuilder(shared_key=KEY, signer=SIGNER)
    first = rules(builder, kubernetes_service_account_token="tok-1").routes["r"]
    again = rules(builder, kubernetes_service_account_token="tok-1").routes["r"]
    other = rules(builder, kubernetes_service_account_token="tok-2").routes["r"]

    assert (first.kubernetes, first.kubernetes_token, other.kubernetes_token) == (True, "tok-1", "tok-2")
    assert again is first
    assert "tok-1" not in repr(first)


def test_a_serverless_route_has_its_audience() -> None:
    fields: dict[str, Any] = {"enable_google_cloud_serverless_authentication": True, "to": ["https://app.run.app"]}

    assert one(**fields).serverless_audience == "https://app.run.app"
    assert rules(**fields).google_account is None


def test_with_another_token_the_key_before_stays_published() -> None:
    """A-23, zero link 7: what was signed a moment ago can still be verified; the control plane looks for the last."""
    builder = RulesBuilder(shared_key=KEY, signer=SIGNER)
    another = Signer(ec.generate_private_key(ec.SECP256R1()))
    rules(builder)

    builder.sign_with(another)
    made = rules(builder)

    assert made.signer is another
    assert {key["kid"] for key in made.public_keys} == {another.kid, SIGNER.kid}
