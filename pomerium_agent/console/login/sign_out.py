"""Who is signed in at the console, and the way out (authenticate 8.2, G-8)."""

import asyncio
import json
from urllib.parse import urlsplit

import structlog
from aiohttp import web

from pomerium_agent.console.login.answers import (
    AFTER_COOKIE,
    SESSION_COOKIE,
    clear_cookie,
    page,
    redirect,
    refuse,
    set_cookie,
)
from pomerium_agent.console.login.consent import FORM_TOKEN
from pomerium_agent.console.login.desk import Asked
from pomerium_agent.console.login.profile import claims_for_cluster
from pomerium_agent.console.login.sessions import Session, text_claim
from pomerium_agent.console.login.tenants import Tenant
from pomerium_agent.errors import AgentError, HandoffRejected
from pomerium_agent.handoff.signed import is_signed, verify_signed_url
from pomerium_agent.look import (
    Account,
    Bar,
    Form,
    Icon,
    Message,
    SessionFacts,
    confirm_sign_out,
    render_account,
    render_message,
    signed_out,
)

log = structlog.get_logger(__name__)

SIGN_OUT, SIGNED_OUT = "/.pomerium/sign_out", "/.pomerium/signed_out"
AFTER = "after"  # the field, and the purpose of the sealed word in it: where to go once signed out
AFTER_SECONDS = 600


async def account_page(asked: Asked) -> web.Response:
    """`/.pomerium/`: who this browser is here. The provider is not asked."""
    session = await known_session(asked)
    if session is None:
        text = "Open one of your applications: it sends you here to sign in, and takes you back."
        return page(render_message(Message(title="You are not signed in", text=text, icon=Icon.PERSON)))
    claims = claims_for_cluster(session.identity)
    groups = claims.get("groups")
    account = Account(
        now=asked.now,
        name=text_claim(session.identity, "name"),
        email=session.email,
        user_id=session.identity.user_id,
        session=SessionFacts(
            id=session.id.hex()[:16],
            provider=asked.settings.provider.type,
            since=session.created_at,
            expires=session.expires_at,
        ),
        claims=[(name, _texts(value)) for name, value in sorted(claims.items()) if name != "groups"],
        groups=_texts(groups) if isinstance(groups, list) else (),
        bar=Bar(site="Console", account_url="/.pomerium/", sign_out=_form(asked, session, "")),
    )
    return page(render_account(account), form_action=await _leads_to(asked, ""))


async def sign_out(asked: Asked) -> web.Response:
    """Asks first, whoever sent the browser: only our own form signs anybody out."""
    session = await known_session(asked)
    if asked.request.method == "POST":
        return await _signed_out_by_form(asked, session)
    after = await _wanted(asked)
    if session is None:
        return redirect(after or SIGNED_OUT, cookies=[clear_cookie(SESSION_COOKIE)])
    return await confirm(asked, session, after)


async def signed_out_page(asked: Asked) -> web.Response:
    """Where browsers end up, also those that come from the provider."""
    word = asked.cookie(AFTER_COOKIE)
    if word:
        try:
            return redirect(asked.desk.open_word(word, AFTER), cookies=[clear_cookie(AFTER_COOKIE)])
        except HandoffRejected:
            pass  # left over from before the key was replaced
    return page(render_message(signed_out()))


async def confirm(asked: Asked, session: Session, after: str) -> web.Response:
    """The page that asks; `after` is where the browser goes once it is signed out."""
    message = confirm_sign_out(_form(asked, session, after), email=session.email, back="/.pomerium/")
    return page(render_message(message), form_action=await _leads_to(asked, after))


async def _signed_out_by_form(asked: Asked, session: Session | None) -> web.Response:
    fields = await asked.form()
    if session is None:
        return redirect(SIGNED_OUT, cookies=[clear_cookie(SESSION_COOKIE)])
    if not asked.from_here or not asked.desk.checks_form(session, SIGN_OUT, fields.get(FORM_TOKEN, "")):
        raise refuse(400, "This form is not ours", "You are still signed in. Sign out on the page that we show.")
    after = asked.desk.open_word(fields[AFTER], AFTER) if fields.get(AFTER) else ""
    await asyncio.to_thread(asked.desk.sessions.close, session.id)
    log.info("signed out", uid=session.identity.user_id, ip=asked.address, request_id=asked.id)
    cookies = [clear_cookie(SESSION_COOKIE)]
    if after:
        cookies.append(set_cookie(AFTER_COOKIE, asked.desk.close_word(after, AFTER), seconds=AFTER_SECONDS))
    try:
        await asked.provider.revoke(session.identity.token)
        url = await asked.provider.sign_out_url(id_token=session.identity.id_token)
    except AgentError as error:  # we are done; the provider's own session stays
        log.info("provider not told of sign-out", reason=str(error), request_id=asked.id)
        url = None
    return redirect(url or SIGNED_OUT, cookies=cookies)


async def known_session(asked: Asked) -> Session | None:
    """Whose browser this is; the provider is not asked."""
    cookie = asked.cookie(SESSION_COOKIE)
    return await asyncio.to_thread(asked.desk.sessions.find, cookie, asked.now) if cookie else None


def _form(asked: Asked, session: Session, after: str) -> Form:
    fields = [(FORM_TOKEN, asked.desk.form_token(session, SIGN_OUT))]
    if after:
        fields.append((AFTER, asked.desk.close_word(after, AFTER)))
    return Form(SIGN_OUT, tuple(fields))


async def _leads_to(asked: Asked, after: str) -> tuple[str, ...]:
    """Where the answer to the form may redirect to, on the way or at its end."""
    try:
        provider = await asked.provider.sign_out_url(id_token="")
    except AgentError:
        provider = None
    return tuple(url for url in (provider, after) if url)


async def _wanted(asked: Asked) -> str:
    """Where a cluster wants its visitor to go afterwards: by its signature, and to its own hosts only (N-41)."""
    if not is_signed(asked.query):
        return ""
    tenants = await asyncio.to_thread(asked.desk.tenants.all)
    for tenant in tenants:
        try:
            verify_signed_url(f"{asked.settings.public_url}{asked.target}", tenant.shared_secret, asked.now)
        except HandoffRejected:
            continue
        return allowed_after(tenant, asked.parameters.get("pomerium_redirect_uri", ""))
    return ""


def allowed_after(tenant: Tenant, url: str) -> str:
    """The URL, if it is the configured one or on a host of the cluster; else nothing."""
    configured = bool(tenant.sign_out_url) and url == tenant.sign_out_url
    return url if (configured and urlsplit(url).scheme == "https") or tenant.serves(url) else ""


def _texts(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(each if isinstance(each, str) else json.dumps(each, ensure_ascii=False) for each in values)
