"""The console as an OpenID Connect provider: what replicas ask it directly (authenticate 5.4)."""

import asyncio
import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import structlog
from aiohttp import hdrs, web

from pomerium_agent.console.login.clients import UnknownClient, authenticate
from pomerium_agent.console.login.desk import Asked
from pomerium_agent.console.login.grants import ACCESS_LIFE, Grant, Issued, Reuse
from pomerium_agent.console.login.openid import REVOKE, TOKEN
from pomerium_agent.console.login.profile import claims_for_cluster
from pomerium_agent.console.login.round_trip import challenge_of, vouched_for
from pomerium_agent.console.login.sessions import Session
from pomerium_agent.console.login.tables import hash_of
from pomerium_agent.console.login.tenants import Tenant
from pomerium_agent.errors import HandoffRejected, ProviderUnavailable
from pomerium_agent.idp.signed import sign

log = structlog.get_logger(__name__)

VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")
NO_STORE = {hdrs.CACHE_CONTROL: "no-store", hdrs.PRAGMA: "no-cache"}
OWN_CLAIMS = frozenset({"iss", "sub", "aud", "exp", "iat", "nonce", "at_hash", "sid"})


@dataclass(frozen=True, slots=True)
class OAuthError(Exception):
    """An error of RFC 6749 5.2. `why` is for the log."""

    code: str
    why: str
    status: int = 400


async def token(asked: Asked) -> web.Response:
    """`/oidc/token`: a code or a refresh token for tokens."""
    try:
        fields, tenant = await _client(asked, TOKEN)
        match fields.get("grant_type"):
            case "authorization_code":
                issued, session = await _by_code(asked, tenant, fields)
            case "refresh_token":
                issued, session = await _by_refresh(asked, tenant, fields)
            case _:
                raise OAuthError("unsupported_grant_type", "the grant is of another kind")
        return web.json_response(await _answer(asked, issued, session), headers=NO_STORE)
    except OAuthError as error:
        return _refused(asked, error)


async def revoke(asked: Asked) -> web.Response:
    """`/oidc/revoke` (RFC 7009): unknown tokens are as good as taken back."""
    try:
        fields, tenant = await _client(asked, REVOKE)
    except OAuthError as error:
        return _refused(asked, error)
    await asyncio.to_thread(asked.desk.grants.end_by_token, fields.get("token", ""), tenant.authenticate_url)
    return web.Response(status=200, headers=NO_STORE)


async def userinfo(asked: Asked) -> web.Response:
    """`/oidc/userinfo`: what is known of the token's owner now."""
    scheme, _, text = asked.request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    grant = None
    if scheme.lower() == "bearer":
        grant = await asyncio.to_thread(asked.desk.grants.by_access, text.strip(), asked.now)
    try:
        session = await _session_of(asked, grant) if grant is not None else None
    except OAuthError as error:
        return _refused(asked, error)
    if session is None:
        headers = {hdrs.WWW_AUTHENTICATE: 'Bearer error="invalid_token"', **NO_STORE}
        return web.json_response({"error": "invalid_token"}, status=401, headers=headers)
    said = {name: value for name, value in claims_for_cluster(session.identity).items() if name not in OWN_CLAIMS}
    return web.json_response({**said, "sub": session.identity.user_id}, headers=NO_STORE)


async def _client(asked: Asked, path: str) -> tuple[dict[str, str], Tenant]:
    """The form and the cluster that posts it. Raises OAuthError."""
    issuer = asked.settings.public_url
    try:
        fields = await asked.form()
        tenant = await authenticate(asked, fields, audiences=(f"{issuer}{path}", f"{issuer}{TOKEN}", issuer))
    except (UnknownClient, HandoffRejected) as error:
        raise OAuthError("invalid_client", str(error), 401) from error
    if not asked.desk.by_cluster.take(tenant.cluster_id):
        raise OAuthError("slow_down", "over the budget", 429)
    return fields, tenant


async def _by_code(asked: Asked, tenant: Tenant, fields: Mapping[str, str]) -> tuple[Issued, Session]:
    key = hash_of(fields.get("code", "")).hex()
    code = asked.desk.codes.pop(key)
    if code is None or code.client_id != tenant.authenticate_url:
        raise OAuthError("invalid_grant", "the code is not known, over, or of another client")
    asked.desk.codes.put(key, replace(code, used=True))
    if code.used:  # somebody else has it too: what it brought is taken back (RFC 6749 4.1.2)
        await asyncio.to_thread(asked.desk.grants.end, code.grant_id)
        raise OAuthError("invalid_grant", "the code was used before")
    verifier = fields.get("code_verifier", "")
    if not VERIFIER.fullmatch(verifier) or not hmac.compare_digest(challenge_of(verifier), code.challenge):
        raise OAuthError("invalid_grant", "the verifier does not fit the challenge")
    if fields.get("redirect_uri") != code.redirect_uri:
        raise OAuthError("invalid_grant", "the redirect URI is another one")
    grant = Grant(id=code.grant_id, visit=code.visit, client_id=code.client_id, scope=code.scope, nonce=code.nonce)
    session = await _session_of(asked, grant)
    refreshable = "offline_access" in code.scope.split()
    issued = await asyncio.to_thread(asked.desk.grants.issue, grant, asked.now, refreshable=refreshable)
    if session is None or issued is None:
        raise OAuthError("invalid_grant", "signed out in the meantime")
    return issued, session


async def _by_refresh(asked: Asked, tenant: Tenant, fields: Mapping[str, str]) -> tuple[Issued, Session]:
    """The provider is asked first: while it is away nothing is used up, and the replica may try again."""
    text = fields.get("refresh_token", "")
    grant = await asyncio.to_thread(asked.desk.grants.look_up, text)
    session = None
    if grant is not None:
        if grant.client_id != tenant.authenticate_url:
            raise OAuthError("invalid_grant", "the token is of another client")
        session = await _session_of(asked, grant)
    issued = await asyncio.to_thread(asked.desk.grants.rotate, text, asked.now)
    if isinstance(issued, Reuse) or session is None:
        why = issued.value if isinstance(issued, Reuse) else "signed out in the meantime"
        if issued is Reuse.STOLEN:
            log.warning("refresh token used twice", cluster=tenant.cluster_id, request_id=asked.id)
        raise OAuthError("invalid_grant", why)
    return issued, session


async def _session_of(asked: Asked, grant: Grant) -> Session | None:
    """Whose grant it is, if the provider still vouches for them. Raises OAuthError while it cannot be asked."""
    visit = await asyncio.to_thread(asked.desk.sessions.visit_by_id, grant.visit)
    if visit is None:
        return None
    session = await asyncio.to_thread(asked.desk.sessions.get, visit.session, asked.now)
    if session is None:
        return None
    try:
        return await vouched_for(asked, session)
    except ProviderUnavailable as error:
        raise OAuthError("temporarily_unavailable", str(error), 503) from error


async def _answer(asked: Asked, issued: Issued, session: Session) -> dict[str, object]:
    answer: dict[str, object] = {
        "access_token": str(issued.access_token),
        "token_type": "Bearer",
        "expires_in": int(ACCESS_LIFE.total_seconds()),
        "scope": issued.grant.scope,
        "id_token": await _id_token(asked, issued, session),
    }
    if issued.refresh_token:
        answer["refresh_token"] = str(issued.refresh_token)
    return answer


async def _id_token(asked: Asked, issued: Issued, session: Session) -> str:
    grant, now = issued.grant, int(asked.now.timestamp())
    key = await asyncio.to_thread(asked.desk.store.logins.signing_key)
    digest = hashlib.sha256(issued.access_token.encode()).digest()
    said = {name: value for name, value in claims_for_cluster(session.identity).items() if name not in OWN_CLAIMS}
    claims: dict[str, Any] = {
        **said,
        "iss": asked.settings.public_url,
        "sub": session.identity.user_id,
        "aud": grant.client_id,
        "iat": now,
        "exp": now + int(ACCESS_LIFE.total_seconds()),
        "at_hash": base64.urlsafe_b64encode(digest[:16]).rstrip(b"=").decode(),
        "sid": grant.visit,
    }
    if grant.nonce:
        claims["nonce"] = grant.nonce
    return sign({"alg": "ES256", "typ": "JWT", "kid": key.kid}, claims, key)


def _refused(asked: Asked, error: OAuthError) -> web.Response:
    log.info(
        "tokens refused", error=error.code, reason=error.why, path=asked.path, ip=asked.address, request_id=asked.id
    )
    return web.json_response({"error": error.code}, status=error.status, headers=NO_STORE)
