"""The provider says that somebody is logged out there (OpenID Connect Back-Channel Logout 1.0)."""

from datetime import timedelta

import structlog
from aiohttp import hdrs, web

from pomerium_agent.authenticate.desk import Desk
from pomerium_agent.authenticate.once import use_once
from pomerium_agent.authenticate.visit import Visit
from pomerium_agent.errors import HandoffUsed, NotBelieved, ProviderUnavailable, SettingsError
from pomerium_agent.idp import LogoutToken
from pomerium_agent.pb.pomerium import session_pb2
from pomerium_agent.sessions.revoke import revoke_sessions_where

log = structlog.get_logger(__name__)

PATH = "/.pomerium/backchannel_logout"
MAX_TOKEN = 16_384
GOOD_FOR = timedelta(minutes=10)  # that a logout token is remembered after it was used


async def log_out(desk: Desk, visit: Visit) -> web.Response:
    """End the sessions that the logout token names. Raises DatabrokerUnavailable; 400 for a token that is not good."""
    if not visit.site.login.refreshes:
        raise web.HTTPNotFound
    try:
        raw = (await visit.request.post()).get("logout_token", "")
    except ValueError:
        raw = ""
    if not isinstance(raw, str) or not 0 < len(raw) <= MAX_TOKEN:
        return _answer(400, "there is no logout_token")
    found = await _verify(raw, visit, desk)
    if found is None:
        log.warning("back-channel logout refused", host=visit.host, request_id=visit.request_id)
        return _answer(400, "the logout token is not good")
    token, idp_ids = found
    now = desk.clock.now()
    try:
        await use_once(desk.backend, "logout", f"{token.issuer}\0{token.id}".encode(), now=now, until=now + GOOD_FOR)
    except HandoffUsed:
        return _answer(400, "the logout token was used before")

    def ends(session: session_pb2.Session) -> bool:
        return session.idp_id in idp_ids and _named(session, token)

    ended = await revoke_sessions_where(desk.backend, ends, now=now)
    log.info("logged out by the provider", issuer=token.issuer, sessions=len(ended))
    return _answer(200)


async def _verify(raw: str, visit: Visit, desk: Desk) -> tuple[LogoutToken, frozenset[str]] | None:
    """The token, and the ids of all providers of this cluster that it speaks for."""
    good: dict[str, LogoutToken] = {}
    for idp_id, settings in visit.site.providers.items():
        try:
            good[idp_id] = await desk.providers.get(settings).verify_logout_token(raw)
        except (NotBelieved, SettingsError):
            continue
        except ProviderUnavailable as error:
            log.warning("a logout token could not be checked", reason=str(error))
    if not good:
        return None
    return next(iter(good.values())), frozenset(good)


def _named(session: session_pb2.Session, token: LogoutToken) -> bool:
    """By the session at the provider if the token names one, else every session of that user."""
    if token.sid:
        return token.sid in _claim(session, "sid")
    return bool(token.subject) and (
        token.subject in _claim(session, "sub") or token.subject == session.id_token.subject
    )


def _claim(session: session_pb2.Session, name: str) -> list[str]:
    if name not in session.claims:
        return []
    return [value.string_value for value in session.claims[name].values if value.HasField("string_value")]


def _answer(status: int, error: str = "") -> web.Response:
    headers = {hdrs.CACHE_CONTROL: "no-store"}
    if status == 200:
        return web.Response(status=200, headers=headers)
    return web.json_response({"error": "invalid_request", "error_description": error}, status=status, headers=headers)
