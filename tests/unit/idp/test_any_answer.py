"""Whatever a provider answers, what comes out is an identity or one of our own errors."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.errors import NotBelieved, ProviderUnavailable
from pomerium_agent.idp import claims as checks
from pomerium_agent.idp.discovery import read_metadata
from pomerium_agent.idp.fetch import Answer
from pomerium_agent.idp.identity import read_token
from pomerium_agent.idp.jwks import read_keys
from pomerium_agent.idp.signed import ALGORITHMS, read_object, read_unverified, verify_signature
from pomerium_agent.idp.token_endpoint import refusal
from tests.fakes.hostile_provider import KEYS

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TIME = NOW.timestamp()
TEXTS = st.sampled_from(["client", "https://idp", "ada", "Bearer", "RS256", "7", "true", "a@x", ""]) | st.text(
    max_size=8
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([TIME, TIME - 1, TIME + 60.0]) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    (
        *("iss", "sub", "aud", "azp", "exp", "iat", "nbf", "jti", "sid", "events", "nonce", "at_hash"),
        *("email", "mail", "email_verified"),
        *("access_token", "token_type", "expires_in", "refresh_token", "id_token", "error"),
        *("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"),
        "id_token_signing_alg_values_supported",
        *("keys", "kty", "kid", "use", "alg", "crv", "x", "y", "n", "e"),
    )
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=12)


@given(OBJECTS, OBJECTS)
def test_claims_are_believed_or_not(claims: dict[str, Any], others: dict[str, Any]) -> None:
    known: dict[str, Any] = {"provider": "p", "client_id": "client", "now": NOW}
    calls: tuple[Callable[[], object], ...] = (
        lambda: checks.check_id_token(claims, **known),
        lambda: checks.check_nonce(claims, "n", provider="p"),
        lambda: checks.check_access_token_hash(claims, "RS256", "a", provider="p"),
        lambda: checks.check_refreshed(claims, others, provider="p"),
        lambda: checks.read_logout_token(claims, **known),
        lambda: read_token(claims, provider="p", now=NOW),
    )
    for call in calls:
        with suppress(NotBelieved):
            call()
    merged = checks.merge(claims, others)
    assert all(merged.get(name) is claims.get(name) for name in checks.TOKEN_CLAIMS)


@given(OBJECTS, OBJECTS | VALUES)
def test_documents_are_usable_or_not(document: dict[str, Any], keys: Any) -> None:
    with suppress(ProviderUnavailable):
        metadata = read_metadata(document, "https://idp")
        assert metadata.token_endpoint.startswith("https://")
    with suppress(ProviderUnavailable):
        read_keys({"keys": keys} if isinstance(keys, list) else {"keys": [document, keys]})


@given(st.integers(200, 499), st.binary(max_size=60) | st.sampled_from([b'{"error":"invalid_grant"}', b"[1]", b"{}"]))
def test_a_refusal_is_always_one_of_ours(status: int, body: bytes) -> None:
    error = refusal(Answer(url="u", status=status, body=body), "p")

    assert (error is None) <= (status < 300)


@given(
    st.text(max_size=200)
    | st.from_regex(r"[A-Za-z0-9_\-]{0,60}(\.[A-Za-z0-9_\-]{0,60}){2}", fullmatch=True)
    | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1"))
)
def test_no_text_is_a_token_that_somebody_signed(text: str) -> None:
    with suppress(ValueError):
        read_unverified(text)
    assert verify_signature(text, KEYS.values(), ALGORITHMS) is None


@given(st.binary(max_size=80))
def test_an_object_can_be_kept_or_is_none(body: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(read_object(body), dict)
    for bad in (b'{"a": NaN}', b'{"a": "\\ud800"}', b"[]", b"[" * 100_000, b'{"a":' * 100_000):
        try:
            read_object(bad)
        except ValueError:
            continue
        raise AssertionError(bad[:20])
