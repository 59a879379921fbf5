"""Signing out: on the host of a route, on the authenticate host, and at the provider (authenticate 8.1, 8.2).

Wherever it begins, the record of the session is ended first, so that no copy of the cookie is worth anything (N-40).
Then the browser is led through the places where it is still known: the authenticate host, the provider.
"""

import asyncio
from urllib.parse import urlsplit

import structlog
from aiohttp import hdrs, web

from pomerium_agent.authenticate.account import ACCOUNT, SIGN_OUT
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
from pomerium_agent.authenticate.visitor import find_visitor
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
    again = "" if visit.on_authenticate_host else "/.pomerium/routes"
    return page(visit, 200, signed_out(sign_in_url=again))


def _meant(visit: Visit) -> bool:
    """Whether this site itself, or the visitor by hand, asks; a link or form of another site does not count."""
    headers = visit.request.headers
    fetch_site = headers.get("Sec-Fetch-Site", "")
    if fetch_site:
        return fetch_site in ("same-origin", "none")
    if visit.request.method != "POST":
        return False  # an old browser does not say where a link is from
    origin = headers.get(hdrs.ORIGIN, "")
    return not origin or urlsplit(origin).netloc.lower() == visit.host.lower()


async def _confirm(visit: Visit, desk: Desk) -> web.Response:
    visitor = await find_visitor(visit, desk)
    email = visitor.resolved.email if visitor.resolved is not None else ""
    wanted = visit.parameters.get(REDIRECT, "")
    query = visit.query if is_signed(visit.query) or wanted else ""
    message = confirm_sign_out(Form(f"{SIGN_OUT}?{query}" if query else SIGN_OUT), email=email, back=ACCOUNT)
    return page(visit, 200, message)


async def _on_route(visit: Visit, desk: Desk) -> web.Response:
    """End the session, and go on to the authenticate host, where the browser has another cookie of it."""
    site, now = visit.site, desk.clock.now()
    visitor = await find_visitor(visit, desk)
    hint = ""
    if visitor.handle is not None and not _is_account(desk, visitor.handle.id):
        record = await _read(desk, visitor.handle.id)
        if record is not None and record.id_token.raw and site.login.refreshes:
            hint = _closed_hint(site.shared_key, record.id_token.raw)
        await _end(desk, visit, visitor.handle.id, record)
    target = _target(visit)
    parameters = [(REDIRECT, target)] if target else []
    if visitor.handle is not None and visitor.handle.idp_id:
        parameters.append(("pomerium_idp_id", visitor.handle.idp_id))
    if hint:
        parameters.append((HINT, hint))
    url = signed_url(f"{site.login.authenticate_url}{SIGN_OUT}", parameters, site.shared_key, now)
    return _on(visit, url, clear_session_cookie(site, site.cookie_name, now))


async def _at_home(visit: Visit, desk: Desk) -> web.Response:
    """On the authenticate host: our own signed link, or a visitor who says so on our page (8.2)."""
    site, now = visit.site, desk.clock.now()
    signed = is_signed(visit.query)
    if signed:
        verify_signed_url(visit.url, site.shared_key, now)
    elif not (visit.request.method == "POST" and _meant(visit)):
        return await _confirm(visit, desk)
    visitor = await find_visitor(visit, desk)
    raw = _opened_hint(site.shared_key, visit.parameters.get(HINT, "")) if signed else ""
    if visitor.handle is not None and not _is_account(desk, visitor.handle.id):
        record = await _read(desk, visitor.handle.id)
        raw = raw or (record.id_token.raw if record is not None else "")
        await _end(desk, visit, visitor.handle.id, record)
    cookies = [clear_session_cookie(site, authenticate_cookie_name(site), now)]
    if visit.cookies(site.cookie_name):
        cookies.append(clear_session_cookie(site, site.cookie_name, now))
    target = _target(visit, signed=signed)
    idp_id = visit.parameters.get("pomerium_idp_id", "") or (visitor.handle.idp_id if visitor.handle else "")
    provider = _provider(visit, desk, idp_id)
    there = await _at_provider(provider, raw, target, site.login.authenticate_url) if provider is not None else None
    if there is None:
        return _on(visit, target or f"https://{visit.host}{SIGNED_OUT}", *cookies)
    if provider is not None and provider.kind.fixed_sign_out and target:
        cookies.append(signed_out_cookie(site, target))
    return _on(visit, there, *cookies)


def _on(visit: Visit, url: str, *cookies: str) -> web.Response:
    """To the next place where the browser is still known."""
    if visit.request.method == "POST":
        return onward(visit, url, "Signing you out", *cookies)
    return redirect(url, *cookies)


async def _end(desk: Desk, visit: Visit, id: str, record: session_pb2.Session | None) -> None:
    """The record first: whatever the provider says, the session is over (N-40)."""
    await revoke_sessions(desk.backend, [id], now=desk.clock.now())
    log.info("signed out", session=id, user=record.user_id if record is not None else "", host=visit.host)
    provider = _provider(visit, desk, record.idp_id) if record is not None else None
    if record is None or provider is None or not record.oauth_token.access_token:
        return
    token = Token(
        access_token=Secret(record.oauth_token.access_token), refresh_token=Secret(record.oauth_token.refresh_token)
    )
    try:
        async with asyncio.timeout(PROVIDER_SECONDS):
            await provider.revoke(token)
    except (ProviderUnavailable, ProviderRefused, NotBelieved, TimeoutError) as error:
        log.info("tokens were not given back", provider=provider.name, reason=str(error) or "it took too long")


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


def _is_account(desk: Desk, id: str) -> bool:
    return desk.sessions.session(id) is None and desk.sessions.service_account(id) is not None


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


def _closed_hint(shared_key: bytes, id_token: str) -> str:
    """The ID token for the provider, unreadable on its way through browser histories and logs."""
    hint = encode_raw(close_box(purpose_key(shared_key, "sign-out-hint"), id_token.encode()))
    return hint if len(hint) <= MAX_HINT else ""


def _opened_hint(shared_key: bytes, hint: str) -> str:
    if not hint:
        return ""
    try:
        return open_box(purpose_key(shared_key, "sign-out-hint"), decode(hint)).decode()
    except (HandoffRejected, UnicodeDecodeError):
        return ""
