"""The way to the provider and back, and sessions that the provider still vouches for (authenticate 5.2)."""

import asyncio
import base64
import hashlib
import hmac
from dataclasses import replace
from datetime import timedelta

import structlog
from aiohttp import web

from pomerium_agent.console.login.answers import (
    BROWSER_COOKIE,
    SESSION_COOKIE,
    Refusal,
    lead_on,
    redirect,
    refuse,
    set_cookie,
    trouble,
)
from pomerium_agent.console.login.desk import ROUND_TRIP_SECONDS, Asked, RoundTrip
from pomerium_agent.console.login.sessions import SESSION_LIFE, Session
from pomerium_agent.console.login.tables import hash_of, new_secret
from pomerium_agent.errors import GrantEnded, NotBelieved, ProviderRefused, ProviderUnavailable
from pomerium_agent.idp import Identity
from pomerium_agent.idp.claims import check_same_subject, merge
from pomerium_agent.look import Trouble

log = structlog.get_logger(__name__)

CHECK_EVERY = timedelta(seconds=60)  # within it, the provider is not asked again
BEFORE_EXPIRY = timedelta(seconds=10)  # tokens count as expired so much earlier (authenticate 9)
SECRET_LENGTH = 43
DENIED = ("access_denied", "unauthorized_client")


async def begin(asked: Asked) -> web.Response:
    """Send the browser to the provider, and have it come back to where it is now."""
    if asked.by_script:  # it could not follow
        raise refuse(401, "You are not signed in", "Open the page in a browser to sign in.")
    provider = asked.provider
    browser = asked.cookie(BROWSER_COOKIE)
    if len(browser) != SECRET_LENGTH:
        browser = new_secret()
    state, nonce, verifier = new_secret(), new_secret(), new_secret()
    try:
        uses_pkce = await provider.uses_pkce()
        url = await provider.authorization_url(
            redirect_uri=asked.settings.redirect_uri,
            state=state,
            nonce=nonce,
            code_challenge=challenge_of(verifier) if uses_pkce else "",
        )
    except ProviderUnavailable as error:
        raise trouble(503, Trouble.UNREACHABLE, why=str(error)) from error
    asked.desk.round_trips.put(
        state,
        RoundTrip(
            browser=hash_of(browser),
            provider_id=provider.settings.id,
            nonce=nonce,
            verifier=verifier if uses_pkce else "",
            return_to=asked.target,
        ),
    )
    cross = provider.kind.cross_site_post
    return lead_on(
        asked, url, cookies=[set_cookie(BROWSER_COOKIE, browser, seconds=ROUND_TRIP_SECONDS, cross_site_post=cross)]
    )


async def come_back(asked: Asked) -> web.Response:
    """`/oauth2/callback`: the provider has sent the browser back."""
    given = await asked.form() if asked.request.method == "POST" else asked.parameters
    if error := given.get("error"):
        status = 401 if error in DENIED else 400
        raise trouble(status, Trouble.DENIED, why=f"the provider answered {error[:100]!r}")
    trip = _trip_of(asked, given.get("state", ""))
    if not given.get("code"):
        raise trouble(400, Trouble.DENIED, why="the provider sent no code")
    asked.desk.round_trips.pop(given["state"])
    identity = await _identity(asked, trip, given)
    cookie = await asyncio.to_thread(
        asked.desk.sessions.open,
        identity,
        provider_id=trip.provider_id,
        now=asked.now,
        instead_of=asked.cookie(SESSION_COOKIE),
    )
    session = await asyncio.to_thread(asked.desk.sessions.find, cookie, asked.now)
    if session is not None:
        asked.desk.in_time.put(f"{session.id.hex()} {hash_of(trip.return_to).hex()}", True)
    seconds = int(SESSION_LIFE.total_seconds())
    return redirect(
        f"{asked.settings.public_url}{trip.return_to}", cookies=[set_cookie(SESSION_COOKIE, cookie, seconds=seconds)]
    )


async def session_of(asked: Asked) -> Session | None:
    """Whose browser this is, if the provider still says so; None when they have to log in."""
    cookie = asked.cookie(SESSION_COOKIE)
    session = await asyncio.to_thread(asked.desk.sessions.find, cookie, asked.now) if cookie else None
    return await vouched_for(asked, session) if session is not None else None


async def vouched_for(asked: Asked, session: Session) -> Session | None:
    """The session as the provider sees it now. Raises ProviderUnavailable when it cannot be asked."""
    if session.provider_id != asked.settings.provider.id:  # the operator has put another in its place
        await asyncio.to_thread(asked.desk.sessions.close, session.id)
        return None
    if asked.now - session.checked_at < CHECK_EVERY:
        return session
    async with asked.desk.lock(session.id):
        latest = await asyncio.to_thread(asked.desk.sessions.get, session.id, asked.now)
        if latest is None or asked.now - latest.checked_at < CHECK_EVERY:
            return latest
        try:
            identity = await _ask_again(asked, latest)
        except (ProviderRefused, NotBelieved) as error:
            log.info("session ended", reason=str(error), request_id=asked.id)
            await asyncio.to_thread(asked.desk.sessions.close, latest.id)
            return None
        await asyncio.to_thread(asked.desk.sessions.renew, latest, identity, asked.now)
        return replace(latest, identity=identity, checked_at=asked.now)


async def browser_session(asked: Asked) -> Session | None:
    """The same for browsers; while the provider is away, nobody is let in (authenticate 4.2, step 3)."""
    try:
        return await session_of(asked)
    except ProviderUnavailable as error:
        raise trouble(503, Trouble.UNREACHABLE, why=str(error)) from error


def challenge_of(verifier: str) -> str:
    """RFC 7636, S256."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _trip_of(asked: Asked, state: str) -> RoundTrip:
    trip = asked.desk.round_trips.get(state)
    if trip is None:
        raise trouble(400, Trouble.EXPIRED_LINK, why="the state is not known, or was used")
    if not hmac.compare_digest(trip.browser, hash_of(asked.cookie(BROWSER_COOKIE))):
        raise trouble(400, Trouble.COOKIE_BLOCKED, why="another browser began this login")
    if trip.provider_id != asked.settings.provider.id:
        raise trouble(400, Trouble.WRONG_PROVIDER, why="the provider was replaced in the meantime")
    return trip


async def _identity(asked: Asked, trip: RoundTrip, given: dict[str, str]) -> Identity:
    provider = asked.provider
    try:
        await provider.check_callback_issuer(given.get("iss", ""))
        identity = await provider.exchange(
            given["code"],
            redirect_uri=asked.settings.redirect_uri,
            nonce=trip.nonce,
            code_verifier=trip.verifier,
        )
    except ProviderUnavailable as error:
        raise trouble(503, Trouble.UNREACHABLE, why=str(error)) from error
    except GrantEnded as error:
        raise trouble(400, Trouble.REPLAY, why=str(error)) from error
    except (ProviderRefused, NotBelieved) as error:
        raise _failed(error) from error
    if not identity.user_id:
        raise _failed(NotBelieved(f"{provider.name} does not say whom it speaks of"))
    return identity


def _failed(error: Exception) -> Refusal:
    return trouble(502, Trouble.FAILED, why=str(error))


async def _ask_again(asked: Asked, session: Session) -> Identity:
    """What the provider says of the person now: by userinfo, or by a refresh when the access token is over."""
    provider, identity = asked.provider, session.identity
    token = identity.token
    if token.expires_at is None or token.expires_at - BEFORE_EXPIRY > asked.now:
        userinfo = await provider.userinfo(token.access_token)
        if userinfo and identity.id_token_claims:
            check_same_subject(userinfo, identity.id_token_claims, provider=provider.name)
        return replace(identity, claims=merge(identity.claims, userinfo))
    fresh = await provider.refresh(token, identity.id_token_claims)
    return replace(
        fresh,
        claims={**identity.claims, **fresh.claims},
        id_token=fresh.id_token or identity.id_token,
        id_token_claims=fresh.id_token_claims or identity.id_token_claims,
    )
