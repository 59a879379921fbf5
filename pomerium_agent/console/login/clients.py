"""Clusters as clients of the console's OpenID Connect provider: each proves itself with its own key (authenticate 5.4).

The key follows from the cluster's shared secret, which the console knows. A key that comes with a JWT is only asked
which cluster it might be; it is the console's own copy that verifies.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import OKPKey

from pomerium_agent.console.login.desk import Asked
from pomerium_agent.console.login.tenants import Tenant
from pomerium_agent.errors import HandoffRejected
from pomerium_agent.handoff.box import decode
from pomerium_agent.idp.signed import read_unverified, verify_signature

ALGORITHMS = ("EdDSA", "Ed25519")
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LEEWAY = timedelta(seconds=60)
LONGEST = timedelta(minutes=10)  # that an assertion may be good for
MAX_JTI = 200


class UnknownClient(Exception):
    """No cluster of this console signed that. The text is for the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What a cluster has signed."""

    tenant: Tenant
    claims: dict[str, Any] = field(repr=False)


async def read_signed(asked: Asked, token: str, *, audiences: tuple[str, ...]) -> Signed:
    """What a JWT says, of which issuer, audience and times are checked. Raises UnknownClient, or HandoffRejected."""
    try:
        header, unverified = read_unverified(token)
    except ValueError:
        raise HandoffRejected("it is not a JWT") from None
    for tenant in await _candidates(asked, header, unverified):
        claims = verify_signature(token, [_key(tenant)], ALGORITHMS)
        if claims is not None:
            _check(claims, tenant, audiences, asked.now)
            return Signed(tenant=tenant, claims=claims)
    raise UnknownClient("no cluster of this console signed it")


async def authenticate(asked: Asked, fields: dict[str, str], *, audiences: tuple[str, ...]) -> Tenant:
    """The cluster that posts a form, by its `private_key_jwt` (RFC 7523). Raises the same; an assertion works once."""
    if fields.get("client_assertion_type") != ASSERTION_TYPE or not fields.get("client_assertion"):
        raise UnknownClient("the client did not assert who it is")
    signed = await read_signed(asked, fields["client_assertion"], audiences=audiences)
    claims, client_id = signed.claims, signed.tenant.authenticate_url
    if claims.get("sub") != claims.get("iss") or fields.get("client_id", client_id).rstrip("/") != client_id:
        raise UnknownClient("the assertion is about another client")
    jti, expires = claims.get("jti"), datetime.fromtimestamp(claims["exp"], UTC)
    if not isinstance(jti, str) or not 0 < len(jti) <= MAX_JTI:
        raise UnknownClient("the assertion has no id")
    logins, id = asked.desk.store.logins, f"{signed.tenant.cluster_id} {jti}"
    if not await asyncio.to_thread(logins.use_once, id, until=expires + LEEWAY, now=asked.now):
        raise UnknownClient("the assertion was used before")
    return signed.tenant


async def _candidates(asked: Asked, header: dict[str, Any], claims: dict[str, Any]) -> tuple[Tenant, ...]:
    """Whom the token may be from, by its own word."""
    key = header.get("jwk")
    if key is None:
        issuer = claims.get("iss")
        named = issuer.rstrip("/") if isinstance(issuer, str) else ""
        return await asyncio.to_thread(asked.desk.tenants.by_client_id, named)
    if not isinstance(key, dict) or key.get("kty") != "OKP" or key.get("crv") != "Ed25519":
        raise UnknownClient("the key is of another kind")
    x = key.get("x")
    tenant = await asyncio.to_thread(asked.desk.tenants.by_client_key, decode(x if isinstance(x, str) else ""))
    return (tenant,) if tenant is not None else ()


def _key(tenant: Tenant) -> OKPKey:
    public = Ed25519PublicKey.from_public_bytes(tenant.client_key)
    return OKPKey.import_key(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def _check(claims: dict[str, Any], tenant: Tenant, audiences: tuple[str, ...], now: datetime) -> None:
    issuer = claims.get("iss")
    if not tenant.authenticate_url or not isinstance(issuer, str) or issuer.rstrip("/") != tenant.authenticate_url:
        raise HandoffRejected("it names another client than the authenticate_service_url of its cluster (iss)")
    audience = claims.get("aud")
    if not any(each in audiences for each in (audience if isinstance(audience, list) else [audience])):
        raise HandoffRejected("it is meant for somebody else (aud)")
    expires, issued = _time(claims, "exp"), _time(claims, "iat")
    if expires is None or issued is None:
        raise HandoffRejected("it does not say how long it is good for")
    if expires <= now - LEEWAY or issued > now + LEEWAY or expires > now + LONGEST + LEEWAY:
        raise HandoffRejected("it is over, from the future, or good for too long; compare the clocks")


def _time(claims: dict[str, Any], name: str) -> datetime | None:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**33:
        return None
    return datetime.fromtimestamp(value, UTC)
