"""The console as an OpenID Connect provider of clusters (`idp_provider: hosted`): discovery, and what browsers see."""

import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

import structlog
from aiohttp import hdrs, web

from pomerium_agent.console.login.answers import CORS, Refusal, lead_on, redirect, refuse
from pomerium_agent.console.login.clients import ALGORITHMS, Signed, UnknownClient, read_signed
from pomerium_agent.console.login.consent import ask_consent
from pomerium_agent.console.login.desk import Asked, Code
from pomerium_agent.console.login.grants import new_grant_id
from pomerium_agent.console.login.round_trip import begin, browser_session
from pomerium_agent.console.login.settings import CALLBACK
from pomerium_agent.console.login.sign_in import too_many
from pomerium_agent.console.login.sign_out import SIGNED_OUT, allowed_after, confirm, known_session
from pomerium_agent.console.login.tables import hash_of, new_secret
from pomerium_agent.console.login.tenants import Tenant
from pomerium_agent.errors import HandoffRejected
from pomerium_agent.idp.signed import read_unverified, verify_signature

log = structlog.get_logger(__name__)

AUTHORIZE, TOKEN, USERINFO = "/oidc/authorize", "/oidc/token", "/oidc/userinfo"
END_SESSION, REVOKE = "/oidc/end_session", "/oidc/revoke"
JWKS = "/.well-known/pomerium/jwks.json"
IDP_ID = "oidc"  # the visits of this flow: it has no provider ids
SCOPES = ("openid", "profile", "email", "groups", "offline_access")
CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
MAX_TEXT = 2048


async def discovery(asked: Asked) -> web.Response:
    """`/.well-known/openid-configuration`."""
    issuer = asked.settings.public_url
    return web.json_response(
        {
            "issuer": issuer,
            "authorization_endpoint": f"{issuer}{AUTHORIZE}",
            "token_endpoint": f"{issuer}{TOKEN}",
            "userinfo_endpoint": f"{issuer}{USERINFO}",
            "end_session_endpoint": f"{issuer}{END_SESSION}",
            "revocation_endpoint": f"{issuer}{REVOKE}",
            "jwks_uri": f"{issuer}{JWKS}",
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "scopes_supported": list(SCOPES),
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
            "request_parameter_supported": True,
            "request_uri_parameter_supported": False,
            "require_signed_request_object": True,
            "request_object_signing_alg_values_supported": list(ALGORITHMS),
            "authorization_response_iss_parameter_supported": True,
        },
        headers={hdrs.CACHE_CONTROL: "max-age=60", **CORS},
    )


async def jwks(asked: Asked) -> web.Response:
    """The public half of what ID tokens are signed with."""
    key = await asyncio.to_thread(asked.desk.store.logins.signing_key)
    return web.json_response({"keys": [key.as_dict(private=False)]}, headers={hdrs.CACHE_CONTROL: "max-age=60", **CORS})


async def authorize(asked: Asked) -> web.Response:
    """Log in, ask for consent, or give a code. What is not signed by a cluster starts nothing (N-45)."""
    session = await browser_session(asked)
    in_time = session is not None and bool(asked.desk.in_time.get(asked.in_time_key(session)))
    signed = await _request(asked, accepted=in_time)
    tenant, claims = signed.tenant, signed.claims
    if not asked.desk.by_cluster.take(tenant.cluster_id):
        raise too_many(tenant.cluster_id)
    wanted = _wanted(tenant, claims)
    facts: dict[str, object] = {
        "ip": asked.address,
        "cluster": tenant.cluster_id,
        "domain": urlsplit(tenant.authenticate_url).hostname or "",
        "client_id": tenant.authenticate_url,
        "version": str(claims.get("pomerium_version", ""))[:200],
        "request_id": asked.id,
    }
    log.info("sign in request", **facts)
    if session is None:
        return await begin(asked)
    if (consent := await ask_consent(asked, session, tenant)) is not None:
        return consent
    visit = await asyncio.to_thread(asked.desk.sessions.visit, session, tenant.cluster_id, IDP_ID, asked.now)
    if visit is None:
        return await begin(asked)
    code = new_secret()
    asked.desk.codes.put(
        hash_of(code).hex(),
        Code(
            client_id=tenant.authenticate_url,
            redirect_uri=wanted["redirect_uri"],
            challenge=wanted["code_challenge"],
            visit=visit.id,
            scope=wanted["scope"],
            nonce=wanted["nonce"],
            grant_id=new_grant_id(),
        ),
    )
    log.info("sign in complete", uid=session.identity.user_id, email=session.email, **facts)
    answer = {"code": code, "state": wanted["state"], "iss": asked.settings.public_url}
    return lead_on(asked, f"{wanted['redirect_uri']}?{urlencode(answer)}")


async def end_session(asked: Asked) -> web.Response:
    """RP-initiated logout: asks the person first; leads on only to the cluster whose ID token proves that it asks."""
    given = await asked.form() if asked.request.method == "POST" else asked.parameters
    after = await _after(asked, given)
    session = await known_session(asked)
    if session is None:
        return redirect(after or f"{asked.settings.public_url}{SIGNED_OUT}")
    return await confirm(asked, session, after)


async def _request(asked: Asked, *, accepted: bool) -> Signed:
    """The request object, verified (RFC 9101); with `accepted`, its time was checked when it first came."""
    token = asked.parameters.get("request", "")
    now_or_then = asked if not accepted else _when_issued(asked, token)
    try:
        return await read_signed(now_or_then, token, audiences=(asked.settings.public_url,))
    except UnknownClient as error:
        raise refuse(
            403, "Nobody here knows this site", "It asked who you are, and was not told.", why=str(error)
        ) from error
    except HandoffRejected as error:
        raise _unreadable(str(error)) from error


def _when_issued(asked: Asked, token: str) -> Asked:
    """The same request at the time at which it was made, as the token has it."""
    try:
        _, claims = read_unverified(token)
        issued = datetime.fromtimestamp(float(claims["iat"]), UTC)
    except (ValueError, TypeError, KeyError, OverflowError, OSError):
        raise _unreadable("it is not a JWT") from None
    return replace(asked, now=min(issued, asked.now))


def _wanted(tenant: Tenant, claims: dict[str, Any]) -> dict[str, str]:
    """What the request asks for, as texts. Raises Refusal: a redirect elsewhere is never followed."""
    names = ("response_type", "client_id", "redirect_uri", "scope", "state", "nonce", "code_challenge")
    found = {name: claims.get(name, "") for name in (*names, "code_challenge_method")}
    if not all(isinstance(value, str) and len(value) <= MAX_TEXT for value in found.values()):
        raise _unreadable("a parameter is not a text")
    if found["client_id"].rstrip("/") != tenant.authenticate_url:
        raise _unreadable("it names another client")
    if found["redirect_uri"] != f"{tenant.authenticate_url}{CALLBACK}":
        raise refuse(
            400,
            "This sign-in leads somewhere else",
            "It would have led you away from the site that asks, so we stopped here.",
            why="the redirect leads out of the cluster",
            cluster=tenant.cluster_id,
        )
    if found["response_type"] != "code" or "openid" not in found["scope"].split() or not found["state"]:
        raise _unreadable("it asks for something other than a code, without openid, or without a state")
    if found["code_challenge_method"] != "S256" or not CHALLENGE.fullmatch(found["code_challenge"]):
        raise _unreadable("it has no code challenge (S256)")
    return found | {"scope": " ".join(scope for scope in found["scope"].split() if scope in SCOPES)}


async def _after(asked: Asked, given: dict[str, str]) -> str:
    """Where to go once signed out; nowhere unless an ID token of ours names the cluster, and it is its own place."""
    key = await asyncio.to_thread(asked.desk.store.logins.signing_key)
    claims = verify_signature(given.get("id_token_hint", ""), [key], ("ES256",)) or {}
    client_id = claims.get("aud")
    if not isinstance(client_id, str) or given.get("client_id", client_id).rstrip("/") != client_id:
        return ""
    url = given.get("post_logout_redirect_uri", "")
    for tenant in await asyncio.to_thread(asked.desk.tenants.by_client_id, client_id):
        if url.startswith(f"{client_id}/.pomerium/") or allowed_after(tenant, url):
            return url
    return ""


def _unreadable(why: str) -> Refusal:
    text = "Go back to the site that you wanted to open, and begin there."
    return refuse(400, "This sign-in link cannot be read", text, why=why)
