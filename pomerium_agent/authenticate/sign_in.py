"""Login pages of our own: the sign-in that hosts send browsers to, and the way by the provider (authenticate 5)."""

import re
from dataclasses import replace
from datetime import datetime
from urllib.parse import urlsplit

import structlog
from aiohttp import hdrs, web

from pomerium_agent.authenticate import cookies, state
from pomerium_agent.authenticate.answers import problem, redirect, signed_in
from pomerium_agent.authenticate.desk import Desk
from pomerium_agent.authenticate.once import use_once
from pomerium_agent.authenticate.targets import check_callback, check_page, check_redirect, hostname_of
from pomerium_agent.authenticate.visit import Visit
from pomerium_agent.errors import HandoffExpired, HandoffRejected
from pomerium_agent.handoff.box import close_box, encode
from pomerium_agent.handoff.nonce import CALLBACK_PATH
from pomerium_agent.handoff.query import as_pairs, parameters_of, parse_query
from pomerium_agent.handoff.sign_in import ADDITIONAL_HOSTS, CALLBACK_URI, IDP_ID, PROGRAMMATIC, REDIRECT_URI
from pomerium_agent.handoff.signed import origin_of, sign_pairs, verify_signed_url
from pomerium_agent.idp import Provider, ProviderSettings
from pomerium_agent.look import Message, Trouble, sign_in_trouble
from pomerium_agent.sessions.handle import Handle, parse_handle, sign_handle
from pomerium_agent.sessions.identity import resolve
from pomerium_agent.sessions.login import begin_session

log = structlog.get_logger(__name__)

TRACE = ("pomerium_traceparent", "pomerium_tracestate")
MAX_TEXT = 300  # characters of what a provider says in an error
ERROR_CODE = re.compile(r"[a-z_]{1,64}")


async def sign_in(desk: Desk, visit: Visit) -> web.Response:
    """5.1, in its order: who is known here goes on at once, everybody else by way of the provider."""
    parameters = visit.parameters
    settings = _provider_settings(visit, parameters.get(IDP_ID) or visit.site.login.provider.id)
    known = await find_login(desk, visit, settings.id)
    if known is None:
        if visit.by_script:
            return problem(visit, 401, Message(title="Sign in first", text="A script cannot do that for you."))
        visit.retry = visit.url
        return await begin_login(desk, visit, settings, return_to=visit.url)
    now = desk.clock.now()
    try:
        verify_signed_url(visit.url, visit.site.shared_key, now)
    except HandoffExpired:
        _take_retry(visit, parameters)
        raise
    handle, cookie = known
    again = cookies.session_cookie(visit.site, cookies.authenticate_cookie_name(visit.site), cookie, now)
    return redirect(_hand_over(visit, parameters, handle, now), again)


async def find_login(desk: Desk, visit: Visit, idp_id: str) -> tuple[Handle, str] | None:
    """Who is signed in on the authenticate host with that provider, and the cookie that says so.

    Raises DatabrokerUnavailable when nobody can tell: an outage is no logout (N-30).
    """
    site, now = visit.site, desk.clock.now()
    for cookie in visit.cookies(cookies.authenticate_cookie_name(site)):
        handle = parse_handle(cookie, (site.shared_key,))
        if handle is None or handle.idp_id != idp_id:
            continue
        await desk.sessions.ready_for(handle)
        found = resolve(desk.sessions, handle, now, handle_lifetime=site.login.cookie_expire)
        if found is not None and not found.service_account:
            return handle, cookie
    return None


async def begin_login(desk: Desk, visit: Visit, settings: ProviderSettings, *, return_to: str) -> web.Response:
    """Send the browser to the provider; from there it comes back to `return_to`, a page of the authenticate host."""
    site, now = visit.site, desk.clock.now()
    provider = desk.providers.get(settings)
    kept = [value for value in visit.cookies(cookies.csrf_cookie_name(site)) if state.is_browser_secret(value)]
    browser = kept[0] if kept else state.new_browser_secret()
    sealed = state.seal_state(
        state.State(
            browser=state.browser_of(browser), began=int(now.timestamp()), idp_id=settings.id, return_to=return_to
        ),
        site.shared_key,
    )
    secrets = state.new_secrets(now)
    name = cookies.pkce_cookie_name(site, state.digest_of(sealed))
    url = await provider.authorization_url(
        redirect_uri=callback_uri(visit),
        state=sealed,
        nonce=secrets.nonce,
        code_challenge=secrets.challenge if await provider.uses_pkce() else "",
    )
    posts = _posts(provider)
    response = redirect(
        url,
        cookies.csrf_cookie(site, browser, cross_site_post=posts),
        cookies.pkce_cookie(site, name, state.seal_secrets(secrets, site.shared_key, name), cross_site_post=posts),
    )
    session = cookies.authenticate_cookie_name(site)
    if visit.cookies(session):
        response.headers.add(hdrs.SET_COOKIE, cookies.clear_session_cookie(site, session, now))
    return response


async def oauth_callback(desk: Desk, visit: Visit) -> web.Response:
    """5.2: a GET brings everything in its query, a POST in its form."""
    given = await visit.form() if visit.request.method == "POST" else visit.parameters
    if "error" in given:
        return _refused_by_provider(visit, given)
    if not given.get("code"):
        raise HandoffRejected("the identity provider sent no code")
    site, now = visit.site, desk.clock.now()
    opened = state.open_state(given.get("state", ""), site.shared_key)
    state.check_browser(opened, visit.cookies(cookies.csrf_cookie_name(site)))
    _take_retry(visit, parameters_of(urlsplit(opened.return_to).query))
    name = cookies.pkce_cookie_name(site, state.digest_of(given["state"]))
    forget = cookies.clear_pkce_cookie(name, now)
    visit.parting_cookies.append(forget)
    state.check_age(opened.began, now)
    provider = desk.providers.get(_provider_settings(visit, opened.idp_id))
    secrets = state.open_secrets(visit.cookies(name), site.shared_key, name)
    state.check_age(secrets.began, now)
    until = datetime.fromtimestamp(secrets.began + state.SECONDS, now.tzinfo)
    await use_once(desk.backend, "state", name.encode(), now=now, until=until)
    await provider.check_callback_issuer(given.get("iss", ""))
    identity = await provider.exchange(
        given["code"], redirect_uri=callback_uri(visit), nonce=secrets.nonce, code_verifier=secrets.verifier
    )
    hosts = (hostname_of(visit.url), hostname_of(parameters_of(urlsplit(opened.return_to).query).get(REDIRECT_URI, "")))
    handle = await begin_session(
        desk.backend,
        identity,
        idp_id=opened.idp_id,
        now=now,
        lifetime=site.login.cookie_expire,
        audience=tuple(dict.fromkeys(host for host in hosts if host)),
    )
    host = urlsplit(site.login.authenticate_url).netloc
    token = sign_handle(replace(handle, issuer=host, audience=(host,)), site.shared_key)
    log.info("signed in with a provider", user_id=handle.user_id, idp_id=handle.idp_id, request_id=visit.request_id)
    cookie = cookies.session_cookie(site, cookies.authenticate_cookie_name(site), token, now)
    return signed_in(visit, opened.return_to, cookie, forget)


def callback_uri(visit: Visit) -> str:
    """As it is registered at the provider."""
    return f"{visit.site.login.authenticate_url}{cookies.CALLBACK_PATH}"


def _hand_over(visit: Visit, parameters: dict[str, str], handle: Handle, now: datetime) -> str:
    """The signed callback URL that carries the handle to the route's host (5.1, 4 to 6)."""
    site = visit.site
    programmatic = parameters.get(PROGRAMMATIC) == "true"
    target = parameters.get(REDIRECT_URI, "")
    check_redirect(site, target, programmatic=programmatic)
    back = parameters.get(CALLBACK_URI) or f"{origin_of(target)}{CALLBACK_PATH}"
    check_callback(site, back)
    host = urlsplit(site.login.authenticate_url).netloc
    audience = dict.fromkeys((host, urlsplit(target).netloc, urlsplit(back).netloc))
    fresh = replace(handle, issuer=host, audience=tuple(audience), issued_at=int(now.timestamp()))
    token = sign_handle(fresh, site.shared_key).encode()
    base, _, query = back.partition("?")
    sent = [
        ("pomerium_session_encrypted", encode(close_box(site.shared_key, token))),
        (REDIRECT_URI, target),
        (ADDITIONAL_HOSTS, parameters.get(ADDITIONAL_HOSTS, "")),  # always there, so always signed (N-20)
        *([(PROGRAMMATIC, "true")] if programmatic else []),
        *((name, parameters[name]) for name in TRACE if name in parameters),
    ]
    names = {name.encode() for name, _ in sent} | {PROGRAMMATIC.encode()}
    echoed = [(name, value) for name, value in parse_query(query.partition("#")[0]) if name not in names]
    return sign_pairs(base, [*echoed, *as_pairs(sent)], site.shared_key, now)


def _refused_by_provider(visit: Visit, given: dict[str, str]) -> web.Response:
    """401 where the provider, or the person, said no; 400 where the request was wrong.

    What it says in words is shown only to a browser that began the login: anybody can write a link with other words.
    """
    error = given["error"] if ERROR_CODE.fullmatch(given["error"]) else "an error that it does not name properly"
    status = 401 if error in ("access_denied", "unauthorized_client") else 400
    site, words = visit.site, ""
    try:
        opened = state.open_state(given.get("state", ""), site.shared_key)
        state.check_browser(opened, visit.cookies(cookies.csrf_cookie_name(site)))
    except HandoffRejected:
        log.info("an error that is of no login of this browser", error=error, request_id=visit.request_id)
    else:
        _take_retry(visit, parameters_of(urlsplit(opened.return_to).query))
        words = given.get("error_description", "")[:MAX_TEXT]
        log.warning("the identity provider refused a login", error=error, request_id=visit.request_id)
    told = f"{error}: {words}" if words else error
    return problem(visit, status, sign_in_trouble(Trouble.DENIED, retry=visit.retry, details=(("What it said", told),)))


def _provider_settings(visit: Visit, idp_id: str) -> ProviderSettings:
    settings = visit.site.providers.get(idp_id)
    if settings is None:
        raise HandoffRejected("it asks for an identity provider that this cluster does not have, or no longer has")
    return settings


def _take_retry(visit: Visit, parameters: dict[str, str]) -> None:
    """The page that the visitor wanted, if it is one of ours."""
    try:
        check_page(visit.site, parameters.get(REDIRECT_URI, ""))
    except HandoffRejected:
        return
    visit.retry = parameters[REDIRECT_URI]


def _posts(provider: Provider) -> bool:
    """Whether the answer is posted by the provider's page, so that Lax cookies would stay behind."""
    return provider.kind.cross_site_post or provider.settings.request_params.get("response_mode") == "form_post"
