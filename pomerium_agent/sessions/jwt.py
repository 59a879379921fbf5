"""JWTs of external identity providers: picked by issuer, verified by the provider's keys (authorize 4.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joserfc.jwk import Key

from pomerium_agent.errors import BearerRejected, ProviderUnavailable
from pomerium_agent.idp.jwks import JwksCache
from pomerium_agent.idp.signed import ALGORITHMS, read_unverified, verify_signature
from pomerium_agent.runtime.health import Health, provider_check

MAX_TIME = 2**53
KUBERNETES_ISSUER = "kubernetes:///"  # in configurations: the cluster around us, whatever it calls itself
NOT_BEFORE_LEEWAY = 60.0  # seconds that the provider's clock may be ahead
DEFAULT_ALGORITHMS = ("RS256", "ES256", "EdDSA")


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtProvider:
    """An external identity provider of the settings; `name` is lower case and has no `/`."""

    name: str
    issuer: str
    audiences: tuple[str, ...]
    jwks_url: str = ""  # empty: discovered from the issuer
    algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS


async def verify_jwt(
    token: str, providers: Sequence[JwtProvider], jwks: JwksCache, now: datetime, health: Health | None = None
) -> tuple[JwtProvider, dict[str, Any]]:
    """The provider of a JWT, and its claims, among them a `sub`.

    Raises BearerRejected, and ProviderUnavailable when the provider's keys cannot be had (A-9), of which
    `health` hears.
    """
    header, claims = _unverified(token)
    provider = next((provider for provider in providers if provider.issuer == claims.get("iss")), None)
    if provider is None:
        raise BearerRejected("no provider of this route issued the bearer token")
    allowed = [name for name in provider.algorithms or DEFAULT_ALGORITHMS if name in ALGORITHMS]
    algorithm, kid = header.get("alg"), header.get("kid", "")
    if algorithm not in allowed:
        raise BearerRejected(f"the bearer token is signed in a way that {provider.name} does not use")
    keys = await _keys(provider, jwks, kid, health)
    verified = verify_signature(token, keys, allowed)
    if verified is None:
        raise BearerRejected(f"no key of {provider.name} signed the bearer token")
    _check(verified, provider, now)
    return provider, verified


async def _keys(provider: JwtProvider, jwks: JwksCache, kid: str, health: Health | None) -> tuple[Key, ...]:
    try:
        keys = await jwks.find(provider.issuer, provider.jwks_url, kid)
    except ProviderUnavailable as error:
        if health is not None:
            try:  # a key that nobody knows says nothing of the others, and anybody may name one
                await jwks.find(provider.issuer, provider.jwks_url, "")
            except ProviderUnavailable:
                health.failed(provider_check(provider.name), str(error))
        raise
    if health is not None:
        health.running(provider_check(provider.name))
    return keys


def issuer_of(token: str) -> object:
    """Whom a JWT names as its issuer, true or not. Raises BearerRejected."""
    return _unverified(token)[1].get("iss")


def check_audience(token: str, said: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Whether an access token that its provider vouches for is meant for a route. Raises BearerRejected.

    By what the provider said of it, else by what is written in it, which the provider has then vouched for.
    """
    stated = said.get("aud") or _unverified(token)[1].get("aud")
    names = stated if isinstance(stated, list | tuple) else [stated]
    if not any(isinstance(name, str) and name in allowed for name in names):
        raise BearerRejected("the access token is not meant for an audience that the route allows (aud)")


def _unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        return read_unverified(token)
    except ValueError:
        raise BearerRejected("the bearer token is not a JWT") from None


def _check(claims: dict[str, Any], provider: JwtProvider, now: datetime) -> None:
    time = now.timestamp()
    expires, not_before = _time(claims, "exp"), _time(claims, "nbf")
    if expires is not None and expires <= time:
        raise BearerRejected("the bearer token has expired")
    if not_before is not None and not_before > time + NOT_BEFORE_LEEWAY:
        raise BearerRejected("the bearer token is not valid yet")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if not any(isinstance(name, str) and name in provider.audiences for name in audiences):
        raise BearerRejected(f"the bearer token is not meant for an audience of {provider.name}")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject or not subject.isprintable():
        raise BearerRejected("the bearer token names no subject")


def _time(claims: dict[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_TIME:
        raise BearerRejected(f"the {name} of the bearer token is no time")
    return float(value)
