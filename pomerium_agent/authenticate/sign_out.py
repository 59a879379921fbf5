"""Signing out: on the host of a route, on the authenticate host, and at the provider (authenticate 8.1, 8.2).

Wherever it begins, the record of the session is ended first, so that no copy of the cookie is worth anything (N-40).
Then the browser is led through the places where it is still known: the authenticate host, the provider.
"""

import asyncio
from datetime import datetime
from typing import NamedTuple

import structlog
from aiohttp import hdrs, web

from pomerium_agent.authenticate.account import ACCOUNT, SIGN_OUT, sign_in_page
from pomerium_agent.authenticate.answers import onward, page, redirect
from pomerium_agent.authenticate.cookies import (
    authenticate_cookie_name,
    clear_session_cookie,
    clear_signed_out_cookie,
    signed_out_cookie,
    signed_out_cookie_name,
)
from pomerium_agent.authenticate.desk import Desk
from pomerium_agent.authenticate.targets import check_page
from pomerium_agent.authenticate.visit import Visit
from pomerium_agent.authenticate.visitor import cookie_handles, find_visitor
from pomerium_agent.config.login import Flow
from pomerium_agent.errors import (
    AgentError,
    DatabrokerUnavailable,
    HandoffRejected,
    NotBelieved,
    ProviderRefused,
    ProviderUnavailable,
    RecordNotFound,
    SettingsError,
)
from pomerium_agent.handoff.box import close_box, decode, encode_raw, open_box
from pomerium_agent.handoff.keys import purpose_key
from pomerium_agent.handoff.sign_in import IDP_ID
from pomerium_agent.handoff.signed import is_signed, signed_url, verify_signed_url
from pomerium_agent.idp import Provider, Token
from pomerium_agent.look import Form, confirm_sign_out, signed_out
from pomerium_agent.pb.pomerium import session_pb2
from pomerium_agent.records import unpack
from pomerium_agent.sessions.entries import SESSION
from pomerium_agent.sessions.revoke import revoke_sessions
from pomerium_agent.settings import Secret

log = structlog.get_logger(__name__)

SIGNED_OUT = "/.pomerium/signed_out"
REDIRECT, HINT = "pomerium_redirect_uri", "pomerium_sign_out_hint"
PROVIDER_SECONDS = 3.0  # that giving tokens back may take; the visitor waits
READ_SECONDS = 5.0
MAX_HINT = 6000  # characters: an ID token that makes the URL longer than browsers like is left out


class Ended(NamedTuple):
    """A session that was ended, and what its provider wants to see to end its own."""

    id: str = ""
    idp_id: str = ""
    id_token: str = ""


NOTHING = Ended()


async def sign_out(desk: Desk, visit: Visit) -> web.Response:
    """Raises HandoffRejected and DatabrokerUnavailable. A cross-site request signs nobody out unasked (N-41, G-8)."""
    if visit.on_authenticate_host:
        return await _at_home(visit, desk)
    if not _meant(visit):
        return await _confirm(visit, desk)
    return await _on_route(visit, desk)


async def show_signed_out(desk: Desk, visit: Visit) -> web.Response:
    """The end of it; on to where a provider that always returns here was meant to lead (8.2)."""
    site, now = visit.site, desk.clock.now()
    for wanted in visit.cookies(signed_out_cookie_name(site)):
        url = _allowed(visit, wanted)
        if url:
            return redirect(url, clear_signed_out_cookie(site, now))
    return page(visit, 200, signed_out(sign_in_url=sign_in_page(visit)))


def _meant(visit: Visit) -> bool:
    """Whether this site itself, or the visitor by hand, asks; what another site makes a browser do does not count.

    Nor do pictures and frames of this site, which its users may have written, nor what a browser fetches in advance.
    """
    headers, posted = visit.request.headers, visit.request.method == "POST"
    if "prefetch" in headers.get("Sec-Purpose", headers.get("Purpose", "")):
        return False
    fetch_site = headers.get("Sec-Fetch-Site", "")
    if fetch_site:
        opens = (headers.get("Sec-Fetch-Mode", "navigate"), headers.get("Sec-Fetch-Dest", "document"))
        return fetch_site in ("same-origin", "none") and (posted or opens == ("navigate", "document"))
    if not posted:
        return False  # an old browser does not say where a link is from
    here = f"https://{visit.host.lower().removesuffix(':443')}"
    origin = headers.get(hdrs.ORIGIN, "")
    return origin.lower() == here if origin else f"{headers.get(hdrs.REFERER, '').lower()}/".startswith(f"{here}/")


async def _confirm(visit: Visit, desk: Desk) -> web.Response:
    visitor = await find_visitor(visit, desk)
    email = visitor.resolved.email if visitor is not None else ""
    wanted = visit.parameters.get(REDIRECT, "")
    query = visit.query if is_signed(visit.query) or wanted else ""
    message = confirm_sign_out(Form(f"{SIGN_OUT}?{query}" if query else SIGN_OUT), email=email, back=ACCOUNT)
    return page(visit, 200, message)


async def _on_route(visit: Visit, desk: Desk) -> web.Response:
    """End the session, and go on to the authenticate host, where the browser has another cookie of it."""
    site, now = visit.site, desk.clock.now()
    ended = await _end(desk, visit)
    return _on(visit, _link(visit, ended, _target(visit), now), clear_session_cookie(site, site.cookie_name, now))


async def _at_home(visit: Visit, desk: Desk) -> web.Response:
    """On the authenticate host: our own link for this very session, or a visitor who says so on our page (8.2).

    A link for another session is somebody else's: whoever signs out themselves gets one, and could pass it on.
    """
    site, now, posted = visit.site, desk.clock.now(), visit.request.method == "POST"
    signed = is_signed(visit.query)
    if signed:
        verify_signed_url(visit.url, site.shared_key, now)
    named = _opened_hint(site.shared_key, visit.parameters.get(HINT, "")) if signed else NOTHING
    proven = signed and all(handle.id == named.id for handle in cookie_handles(visit))
    if not proven and not (posted and _meant(visit)):
        return await _confirm(visit, desk)
    ended = await _end(desk, visit)
    if not ended.id_token and ended.id in ("", named.id):
        ended = named._replace(idp_id=ended.idp_id)
    idp_id = visit.parameters.get(IDP_ID, "") if signed else ""
    ended = ended._replace(idp_id=idp_id or ended.idp_id)
    target = _target(visit, signed=signed)
    cookies = [clear_session_cookie(site, authenticate_cookie_name(site), now)]
    if visit.cookies(site.cookie_name):
        cookies.append(clear_session_cookie(site, site.cookie_name, now))
    if posted:  # by way of a link of our own, since no page may hold what the provider wants to see (N-33)
        return _on(visit, _link(visit, ended, target, now), *cookies)
    provider = _provider(visit, desk, ended.idp_id)
    there = await _at_provider(provider, ended.id_token, target, site.login.authenticate_url) if provider else None
    if there is None:
        return redirect(target or f"https://{visit.host}{SIGNED_OUT}", *cookies)
    if provider is not None and provider.kind.fixed_sign_out and target:
        cookies.append(signed_out_cookie(site, target))
    return redirect(there, *cookies)


def _link(visit: Visit, ended: Ended, target: str, now: datetime) -> str:
    """To the authenticate host, in the name of the session that was ended."""
    site = visit.site
    parameters = [(REDIRECT, target)] if target else []
    if ended.idp_id:
        parameters.append((IDP_ID, ended.idp_id))
    if ended.id and site.login.flow is Flow.STATEFUL:
        parameters.append((HINT, _closed_hint(site.shared_key, ended)))
    return signed_url(f"{site.login.authenticate_url}{SIGN_OUT}", parameters, site.shared_key, now)


def _on(visit: Visit, url: str, *cookies: str) -> web.Response:
    """To the next place where the browser is still known."""
    if visit.request.method == "POST":
        return onward(visit, url, "Signing you out", *cookies)
    return redirect(url, *cookies)


async def _end(desk: Desk, visit: Visit) -> Ended:
    """Every session that this browser has here, whosever provider's it is (N-40); the first of them is returned.

    The records first: whatever the provider says, the sessions are over. Service accounts are not ended.
    """
    handles = cookie_handles(visit)
    records = [record for handle in handles if (record := await _read(desk, handle.id)) is not None]
    for each in await revoke_sessions(desk.backend, [handle.id for handle in handles], now=desk.clock.now()):
        log.info("signed out", session=each.id, user=each.user_id, host=visit.host)
    await _give_back(desk, visit, records)
    if records:
        idp_id = next(handle.idp_id for handle in handles if handle.id == records[0].id)
        return Ended(records[0].id, idp_id or records[0].idp_id, records[0].id_token.raw)
    return Ended(handles[0].id, handles[0].idp_id) if handles else NOTHING


async def _give_back(desk: Desk, visit: Visit, records: list[session_pb2.Session]) -> None:
    """The tokens, as far as their providers take them within the time that a visitor waits."""
    try:
        async with asyncio.timeout(PROVIDER_SECONDS):
            for record in records:
                provider = _provider(visit, desk, record.idp_id)
                if provider is not None and record.oauth_token.access_token:
                    await _revoke(provider, record)
    except TimeoutError:
        log.info("tokens were not given back", reason="it took too long")


async def _revoke(provider: Provider, record: session_pb2.Session) -> None:
    access, refresh = record.oauth_token.access_token, record.oauth_token.refresh_token
    try:
        await provider.revoke(Token(access_token=Secret(access), refresh_token=Secret(refresh)))
    except (ProviderUnavailable, ProviderRefused, NotBelieved) as error:
        log.info("tokens were not given back", provider=provider.name, reason=str(error))


async def _at_provider(provider: Provider, id_token: str, target: str, authenticate_url: str) -> str | None:
    """Where to sign out at the provider too; None where that is not possible now."""
    back = target or f"{authenticate_url}{SIGNED_OUT}"
    try:
        async with asyncio.timeout(PROVIDER_SECONDS):
            return await provider.sign_out_url(id_token=id_token, redirect_uri=back)
    except (AgentError, TimeoutError) as error:
        log.info("no sign-out at the provider", provider=provider.name, reason=str(error) or "it took too long")
        return None


def _provider(visit: Visit, desk: Desk, idp_id: str) -> Provider | None:
    site = visit.site
    if not site.login.refreshes:  # the tokens of the hosted flow are not ours
        return None
    settings = site.providers.get(idp_id) if idp_id else site.login.provider
    if settings is None:
        return None
    try:
        return desk.providers.get(settings)
    except SettingsError as error:
        log.warning("the identity provider cannot be used", reason=str(error))
        return None


async def _read(desk: Desk, id: str) -> session_pb2.Session | None:
    try:
        async with asyncio.timeout(READ_SECONDS):
            record = await desk.backend.get(SESSION, id)
    except RecordNotFound:
        return None
    except TimeoutError:
        raise DatabrokerUnavailable(f"a session was not read within {READ_SECONDS:g} s") from None
    return unpack(record.data, session_pb2.Session)


def _target(visit: Visit, *, signed: bool = False) -> str:
    """Where to end: what is configured, or, where that is allowed, a page of this cluster (N-41)."""
    login = visit.site.login
    wanted = visit.parameters.get(REDIRECT, "")
    if wanted and (signed or login.any_sign_out_redirect):
        url = _allowed(visit, wanted)
        if url:
            return url
    return login.sign_out_url


def _allowed(visit: Visit, url: str) -> str:
    """The URL, if it is the configured one or a page of this cluster; else nothing."""
    if url and url == visit.site.login.sign_out_url:
        return url
    try:
        check_page(visit.site, url)
    except HandoffRejected:
        return ""
    return url


def _closed_hint(shared_key: bytes, ended: Ended) -> str:
    """Which session was ended, and its ID token for the provider, unreadable in histories and logs on the way."""
    key = purpose_key(shared_key, "sign-out-hint")
    for id_token in (ended.id_token, ""):
        hint = encode_raw(close_box(key, f"{ended.id}\n{id_token}".encode()))
        if len(hint) <= MAX_HINT:
            return hint
    return ""


def _opened_hint(shared_key: bytes, hint: str) -> Ended:
    if not hint:
        return NOTHING
    try:
        id, _, id_token = open_box(purpose_key(shared_key, "sign-out-hint"), decode(hint)).decode().partition("\n")
    except (HandoffRejected, UnicodeDecodeError):
        return NOTHING
    return Ended(id=id, id_token=id_token)
