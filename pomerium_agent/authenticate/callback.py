"""The end of a login, on the host of a route: what came back is opened, checked and used once (authenticate 4.4, 5.3).

     sealed by the hosted service                        signed by this cluster
                │                                                  │
for us, by its key, in time                             by our key, in time
                └─────► a place of ours · this browser ◄───────────┘
                        a provider of this host · never used before
                │                                                  │
session and user are written in one Put               the handle inside is taken
                └──────────────────► cookie, redirect ◄────────────┘
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import structlog
from aiohttp import web

from pomerium_agent.authenticate.answers import redirect, signed_in
from pomerium_agent.authenticate.cookies import session_cookie
from pomerium_agent.authenticate.desk import Desk
from pomerium_agent.authenticate.once import use_once
from pomerium_agent.authenticate.profile import read_profile
from pomerium_agent.authenticate.targets import check_redirect, with_jwt
from pomerium_agent.authenticate.visit import Visit
from pomerium_agent.config.login import Flow
from pomerium_agent.errors import HandoffExpired, HandoffRejected, HandoffStrayed, NotBelieved
from pomerium_agent.handoff import nonce
from pomerium_agent.handoff.box import decode, open_box
from pomerium_agent.handoff.keys import hpke_key
from pomerium_agent.handoff.query import as_pairs
from pomerium_agent.handoff.sealed import EXPIRY, check_lifetime, open_query, read_sealed
from pomerium_agent.handoff.sign_in import ADDITIONAL_HOSTS, MAX_ADDITIONAL_HOSTS, PROGRAMMATIC, REDIRECT_URI
from pomerium_agent.handoff.signed import sign_pairs, verify_signed_url
from pomerium_agent.sessions.handle import Handle, parse_handle, sign_handle
from pomerium_agent.sessions.login import begin_session

log = structlog.get_logger(__name__)

SESSION = "pomerium_session_encrypted"
PROFILE = "pomerium_identity_profile"
SIGNED_EXPIRY = "pomerium_expiry"
CHAINED = "pomerium_login_chained"  # a replica of this cluster sent the browser on from another host
OURS = frozenset(
    {"pomerium_issued", "pomerium_expiry", "pomerium_signature", nonce.PARAMETER, ADDITIONAL_HOSTS, CHAINED}
)


async def without_slash(_desk: Desk, visit: Visit) -> web.Response:
    """301 to the same with a slash."""
    target = nonce.CALLBACK_PATH + (f"?{visit.query}" if visit.query else "")
    return web.Response(status=301, headers={"Location": target, "x-pomerium-intercepted-response": "true"})


async def callback(desk: Desk, visit: Visit) -> web.Response:
    if visit.site.login.flow is Flow.STATELESS:
        return await _sealed(desk, visit)
    return await _signed(desk, visit)


async def _sealed(desk: Desk, visit: Visit) -> web.Response:
    """The hosted flow. Whatever stands beside the sealed query is not looked at (N-8)."""
    site, now = visit.site, desk.clock.now()
    sealed = read_sealed(visit.query)
    if sealed is None:
        raise HandoffRejected("it brings nothing from the login service")
    inner = open_query(sealed, hpke_key(site.shared_key))
    if not await desk.server_key.is_of(sealed.sender):
        raise HandoffRejected("it was sealed by somebody else than the login service of this cluster")
    _take_retry(visit, inner)
    check_lifetime(inner, now)
    target, programmatic = _target(visit, inner)
    ours = _of_this_browser(desk, visit, inner, exempt=programmatic)
    profile = read_profile(inner.get(PROFILE, ""))
    _check_provider(visit, profile.provider_id)
    await use_once(desk.backend, "sealed", sealed.blob, now=now, until=_time(inner, EXPIRY, 1000))
    try:
        handle = await begin_session(
            desk.backend,
            profile.identity,
            idp_id=profile.provider_id,
            now=now,
            lifetime=site.login.cookie_expire,
        )
    except NotBelieved as error:  # of the service's word, a thing of the link (N-18)
        raise HandoffRejected(str(error)) from error
    token = sign_handle(handle, site.shared_key)
    _tell(desk, visit, handle, programmatic=programmatic)
    return _land(visit, token, target, now, programmatic=programmatic, ours=ours)


async def _signed(desk: Desk, visit: Visit) -> web.Response:
    """The flow of our own login pages, which wrote the session already."""
    site, now = visit.site, desk.clock.now()
    try:
        verify_signed_url(visit.url, site.shared_key, now)
    except HandoffExpired:
        _take_retry(visit, visit.parameters)
        raise
    inner = visit.parameters
    _take_retry(visit, inner)
    target, programmatic = _target(visit, inner)
    ours = _of_this_browser(desk, visit, inner, exempt=programmatic or inner.get(CHAINED) == "true")
    box = decode(inner.get(SESSION, ""))
    token = open_box(site.shared_key, box).decode("ascii", "replace")
    handle = parse_handle(token, (site.shared_key,))
    if handle is None:
        raise HandoffRejected("it holds no session handle")
    _check_provider(visit, handle.idp_id)
    payload = visit.host.lower().encode() + b"\0" + box  # a chain brings the same box to several hosts
    await use_once(desk.backend, "signed", payload, now=now, until=_time(inner, SIGNED_EXPIRY, 1))
    ours = ours or inner.get(CHAINED) == "true"
    hosts = [host for host in inner.get(ADDITIONAL_HOSTS, "").split(",") if host]
    _tell(desk, visit, handle, programmatic=programmatic)
    if not hosts:
        return _land(visit, token, target, now, programmatic=programmatic, ours=ours)
    further = _next_host(visit, hosts, now)
    return redirect(further, *_cookies(visit, token, now, ours=ours))


def _target(visit: Visit, inner: Mapping[str, str]) -> tuple[str, bool]:
    """Where the browser ends up, and whether a program waits there."""
    target, programmatic = inner.get(REDIRECT_URI, ""), inner.get(PROGRAMMATIC) == "true"
    check_redirect(visit.site, target, programmatic=programmatic)
    return target, programmatic


def _take_retry(visit: Visit, inner: Mapping[str, str]) -> None:
    """Where a visitor may start again; of a program's login, nowhere."""
    try:
        check_redirect(visit.site, inner.get(REDIRECT_URI, ""), programmatic=False)
    except HandoffRejected:
        return
    visit.retry = inner[REDIRECT_URI]


def _of_this_browser(desk: Desk, visit: Visit, inner: Mapping[str, str], *, exempt: bool) -> bool:
    """Whether this browser began the login (N-15). Raises HandoffStrayed when it did not and is not exempt.

    In a mixed cluster a login without any echo began at a replica of another make, which ties it to no browser.
    """
    site, echo = visit.site, inner.get(nonce.PARAMETER, "")
    if desk.mixed_cluster and not echo and not exempt:
        return True
    cookies = visit.cookies(nonce.cookie_name(site.cookie_name))
    ours = bool(echo) and any(nonce.matches(site.shared_key, cookie, visit.host, echo) for cookie in cookies)
    if not ours and not exempt:
        raise HandoffStrayed("this browser did not begin the login, or did not keep the cookie of its beginning")
    return ours


def _check_provider(visit: Visit, idp_id: str) -> None:
    """N-19: a session that does not count on this host would send the browser round in circles."""
    if not visit.site.logs_in_with(visit.host, idp_id):
        raise HandoffRejected(
            f"the login was with another identity provider than {visit.host} wants; "
            "the settings of the route and of the login service differ"
        )


def _next_host(visit: Visit, hosts: list[str], now: datetime) -> str:
    """The same callback on the next host, signed anew (N-25). Only the first host has the nonce's cookie."""
    if len(hosts) > MAX_ADDITIONAL_HOSTS or not all(visit.site.serves(host) for host in hosts):
        raise HandoffRejected("it leads on to a host that is not of this cluster")
    url = f"https://{hosts[0]}{nonce.CALLBACK_PATH}"
    check_redirect(visit.site, url, programmatic=False)
    kept = [(name, value) for name, value in visit.parameters.items() if name not in OURS]
    kept.append((CHAINED, "true"))
    if hosts[1:]:
        kept.append((ADDITIONAL_HOSTS, ",".join(hosts[1:])))
    return sign_pairs(url, as_pairs(kept), visit.site.shared_key, now)


def _land(visit: Visit, token: str, target: str, now: datetime, *, programmatic: bool, ours: bool) -> web.Response:
    cookies = _cookies(visit, token, now, ours=ours)
    if programmatic:
        return redirect(with_jwt(target, token), *cookies)
    return signed_in(visit, target, *cookies)


def _cookies(visit: Visit, token: str, now: datetime, *, ours: bool) -> tuple[str, ...]:
    """None for a program's login that somebody else's browser may have begun: it would be theirs from then on."""
    return (session_cookie(visit.site, visit.site.cookie_name, token, now),) if ours else ()


def _time(inner: Mapping[str, str], name: str, scale: int) -> datetime:
    """Of a number that was checked before."""
    try:
        return datetime.fromtimestamp(int(inner[name]) / scale, UTC)
    except (ValueError, OverflowError, OSError):
        raise HandoffRejected(f"{name} is no time") from None


def _tell(desk: Desk, visit: Visit, handle: Handle, *, programmatic: bool) -> None:
    desk.metrics.logins.labels("success").inc()
    log.info(
        "signed in",
        user_id=handle.user_id,
        idp_id=handle.idp_id,
        host=visit.host,
        programmatic=programmatic,
        request_id=visit.request_id,
    )
