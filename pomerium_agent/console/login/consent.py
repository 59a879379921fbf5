"""Asking people, the first time, whether a cluster may know who they are (N-46)."""

import asyncio
import hashlib

import structlog
from aiohttp import web

from pomerium_agent.console.login.answers import page, refuse, trouble
from pomerium_agent.console.login.desk import Asked
from pomerium_agent.console.login.sessions import Session
from pomerium_agent.console.login.tenants import Tenant
from pomerium_agent.look import Consent, Form, Trouble, render_consent

log = structlog.get_logger(__name__)

FORM_TOKEN = "form_token"  # noqa: S105  # the name of a field
CHOICE, CONTINUE, CANCEL = "choice", "continue", "cancel"  # as the page has them


async def ask_consent(asked: Asked, session: Session, tenant: Tenant) -> web.Response | None:
    """The page that asks, or None when it was answered with yes, now or before.

    Raises Refusal for a no, and for a form that is not of ours.
    """
    person = person_of(asked, session)
    if await asyncio.to_thread(asked.desk.store.logins.agreed, tenant.cluster_id, person):
        return None
    if asked.request.method != "POST":
        return _page(asked, session, tenant)
    fields = await asked.form()
    if not asked.from_here or not asked.desk.checks_form(session, asked.target, fields.get(FORM_TOKEN, "")):
        raise refuse(400, "This form is not ours", "It was sent from somewhere else, or is too old. Go back and retry.")
    if fields.get(CHOICE) != CONTINUE:
        raise trouble(403, Trouble.DENIED, why="the visitor does not want this cluster to know them")
    await asyncio.to_thread(asked.desk.store.logins.agree, tenant.cluster_id, person, asked.now)
    log.info("consent given", cluster=tenant.cluster_id, uid=session.identity.user_id, request_id=asked.id)
    return None


def person_of(asked: Asked, session: Session) -> bytes:
    """Who it is, by the provider that says so."""
    provider = asked.settings.provider
    said = "\0".join((provider.type, provider.url, session.identity.user_id))
    return hashlib.sha256(said.encode(errors="surrogatepass")).digest()


def _page(asked: Asked, session: Session, tenant: Tenant) -> web.Response:
    asked.desk.in_time.put(asked.in_time_key(session), True)
    token = asked.desk.form_token(session, asked.target)
    shared = ["your name and email address", "your groups, and whatever else your account says about you"]
    if tenant.passes_tokens:
        shared.append("a token with which it can ask your identity provider about you")
    consent = Consent(
        cluster=tenant.name,
        domain=tenant.domain,
        form=Form(asked.target, ((FORM_TOKEN, token),)),
        email=session.email,
        shared=shared,
        request_id=asked.id,
    )
    return page(render_consent(consent))
