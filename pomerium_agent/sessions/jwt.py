"""JWTs of external identity providers: picked by issuer, verified by the provider's keys (authorize 4.2)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError

from pomerium_agent.errors import BearerRejected
from pomerium_agent.sessions.jwks import JwksCache

MAX_TOKEN = 16_384
MAX_TIME = 2**53
KUBERNETES_ISSUER = "kubernetes:///"  # in configurations: the cluster around us, whatever it calls itself
NOT_BEFORE_LEEWAY = 60.0  # seconds that the provider's clock may be ahead
DEFAULT_ALGORITHMS = ("RS256", "ES256", "EdDSA")
# What may be configured at all: never a secret shared with others, never nothing.
ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtProvider:
    """An external identity provider of the settings; `name` is lower case and has no `/`."""

    name: str
    issuer: str
    audiences: tuple[str, ...]
    jwks_url: str = ""  # empty: discovered from the issuer
    algorithms: tuple[str, ...] = DEFAULT_ALGORITHMS


class _Registry(jws.JWSRegistry):
    """The algorithms that a provider may use. The library would print a warning with each use of EdDSA's old name."""

    def get_alg(self, name: str) -> Any:
        if name not in (self.allowed or ()) or name not in self.algorithms:
            raise UnsupportedAlgorithmError()
        return self.algorithms[name]


async def verify_jwt(
    token: str, providers: Sequence[JwtProvider], jwks: JwksCache, now: datetime
) -> tuple[JwtProvider, dict[str, Any]]:
    """The provider of a JWT, and its claims, among them a `sub`.

    Raises BearerRejected, and ProviderUnavailable when the provider's keys cannot be had (A-9).
    """
    header, claims = _unverified(token)
    provider = next((provider for provider in providers if provider.issuer == claims.get("iss")), None)
    if provider is None:
        raise BearerRejected("no provider of this route issued the bearer token")
    allowed = [name for name in provider.algorithms or DEFAULT_ALGORITHMS if name in ALGORITHMS]
    algorithm, kid = header.get("alg"), header.get("kid", "")
    if algorithm not in allowed or not isinstance(kid, str):
        raise BearerRejected(f"the bearer token is signed in a way that {provider.name} does not use")
    keys = await jwks.find(provider.issuer, provider.jwks_url, kid)
    registry = _Registry(algorithms=allowed, strict_check_header=False)
    for key in keys:
        try:
            verified = jws.deserialize_compact(token, key, registry=registry)
        except (JoseError, ValueError, TypeError, RecursionError):  # another kind of key, a false signature
            continue
        claims = _object(verified.payload)
        _check(claims, provider, now)
        return provider, claims
    raise BearerRejected(f"no key of {provider.name} signed the bearer token")


def issuer_of(token: str) -> object:
    """Whom a JWT names as its issuer, true or not. Raises BearerRejected."""
    return _unverified(token)[1].get("iss")


def _unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims as the token has them, only to know whom to ask."""
    try:
        unverified = jws.extract_compact(token.encode())
        return _object(json.dumps(unverified.headers()).encode()), _object(unverified.payload)
    except (JoseError, ValueError, TypeError, KeyError, RecursionError):
        raise BearerRejected("the bearer token is not a JWT") from None


def _object(payload: bytes) -> dict[str, Any]:
    try:
        claims = json.loads(payload.decode())
    except (ValueError, RecursionError):
        raise BearerRejected("the bearer token is not a JWT") from None
    if not isinstance(claims, dict):
        raise BearerRejected("the bearer token is not a JWT")
    return claims


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
