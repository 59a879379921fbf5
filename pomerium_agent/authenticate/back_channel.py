"""The provider says that somebody is logged out there (OpenID Connect Back-Channel Logout 1.0)."""

from datetime import timedelta

import structlog
from aiohttp import hdrs, web

from pomerium_agent.authenticate.desk import Desk
from pomerium_agent.authenticate.once import give_back, use_once
from pomerium_agent.authenticate.visit import Visit
from pomerium_agent.errors import (
    DatabrokerUnavailable,
    HandoffRejected,
    HandoffUsed,
    NotBelieved,
    ProviderUnavailable,
    SettingsError,
)
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
        raw = (await visit.form()).get("logout_token", "")
    except HandoffRejected:
        raw = ""
    if not 0 < len(raw) <= MAX_TOKEN:
        return _answer(400, "there is no logout_token")
    try:
        found = await _verify(raw, visit, desk)
    except ProviderUnavailable as error:
        log.warning("a logout token could not be checked", reason=str(error), request_id=visit.request_id)
        return _answer(503, "the keys of the provider cannot be had just now; try again")
    if found is None:
        log.warning("back-channel logout refused", host=visit.host, request_id=visit.request_id)
        return _answer(400, "the logout token is not good")
    token, idp_ids = found
    now = desk.clock.now()
    try:
        used = await use_once(
            desk.backend, "logout", f"{token.issuer}\0{token.id}".encode(), now=now, until=now + GOOD_FOR
        )
    except HandoffUsed:
        return _answer(400, "the logout token was used before")

    def ends(session: session_pb2.Session) -> bool:
        return session.idp_id in idp_ids and _named(session, token)

    try:
        ended = await revoke_sessions_where(desk.backend, ends, now=now)
    except DatabrokerUnavailable:
        await give_back(desk.backend, used)  # the provider tries again, and must be heard then
        raise
    log.info("logged out by the provider", issuer=token.issuer, sessions=len(ended))
    return _answer(200)


async def _verify(raw: str, visit: Visit, desk: Desk) -> tuple[LogoutToken, frozenset[str]] | None:
    """The token, and the ids of all providers of this cluster that it speaks for.

    Raises ProviderUnavailable where nobody can tell.
    """
    good: dict[str, LogoutToken] = {}
    unheard: ProviderUnavailable | None = None
    for idp_id, settings in visit.site.providers.items():
        try:
            good[idp_id] = await desk.providers.get(settings).verify_logout_token(raw)
        except (NotBelieved, SettingsError):
            continue
        except ProviderUnavailable as error:
            unheard = error
    if not good:
        if unheard is not None:
            raise unheard
        return None
    return next(iter(good.values())), frozenset(good)


def _named(session: session_pb2.Session, token: LogoutToken) -> bool:
    """By the session at the provider if the token names one, else every session of that user.

    Of a session that does not say which one it is at the provider, the user counts in any case.
    """
    sids = _claim(session, "sid")
    if token.sid and sids:
        return token.sid in sids
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
    code = "temporarily_unavailable" if status == 503 else "invalid_request"
    return web.json_response({"error": code, "error_description": error}, status=status, headers=headers)
