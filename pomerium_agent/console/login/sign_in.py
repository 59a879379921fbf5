"""`/.pomerium/sign_in`: a cluster asks who a browser is, sealed, and is told, sealed (authenticate 4.2, 11)."""

import asyncio
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

import structlog
from aiohttp import web

from pomerium_agent.console.login.answers import Refusal, lead_on, refuse, trouble
from pomerium_agent.console.login.consent import ask_consent
from pomerium_agent.console.login.desk import Asked
from pomerium_agent.console.login.profile import identity_profile
from pomerium_agent.console.login.round_trip import begin, browser_session
from pomerium_agent.console.login.sessions import Session
from pomerium_agent.console.login.tenants import Tenant
from pomerium_agent.errors import HandoffExpired, HandoffRejected
from pomerium_agent.handoff.box import encode_raw
from pomerium_agent.handoff.nonce import CALLBACK_PATH
from pomerium_agent.handoff.query import parse_query
from pomerium_agent.handoff.sealed import (
    EXPIRY,
    ISSUED,
    SealedQuery,
    check_lifetime,
    lifetime,
    open_query,
    read_sealed,
    seal_query,
)
from pomerium_agent.look import Trouble
from pomerium_agent.runtime.version import full_version

log = structlog.get_logger(__name__)

MAX_QUERY = 16 * 1024  # characters of what may be sealed (authenticate 11)
MAX_INFLATED = 64 * 1024
MAX_SHOWN = 200
REDIRECT, CALLBACK, IDP_ID = "pomerium_redirect_uri", "pomerium_callback_uri", "pomerium_idp_id"
PROGRAMMATIC, BIND = "pomerium_programmatic", "pomerium_bind_session"
PROFILE, VERSION, UUID = "pomerium_identity_profile", "pomerium_version", "pomerium_request_uuid"
OURS = frozenset({REDIRECT, IDP_ID, PROGRAMMATIC, BIND, PROFILE, VERSION, ISSUED, EXPIRY})


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a cluster asks, opened and checked. Nothing from outside the seal is in it (N-8)."""

    sealed: SealedQuery
    tenant: Tenant
    inner: dict[str, str] = field(repr=False)
    redirect_uri: str
    callback_uri: str
    programmatic: bool

    @property
    def idp_id(self) -> str:
        return self.inner.get(IDP_ID, "")

    @property
    def facts(self) -> dict[str, object]:
        """What is put down of it (authenticate 11, "audit")."""
        return {
            "cluster": self.tenant.cluster_id,
            "domain": urlsplit(self.redirect_uri).hostname or "",
            "public_key": encode_raw(self.sealed.sender),
            "version": _shown(self.inner.get(VERSION, "")),
            "request_uuid": _shown(self.inner.get(UUID, "")),
        }


async def sign_in(asked: Asked) -> web.Response:
    """Log in, ask for consent, or answer at once: whatever this browser still lacks."""
    sealed = _sealed(asked)
    tenant = await asyncio.to_thread(asked.desk.tenants.by_sender, sealed.sender)
    if tenant is None:
        why = "no cluster of this console seals with that key"
        raise refuse(403, "Nobody here knows this site", "It asked who you are, and was not told.", why=why)
    if not asked.desk.by_cluster.take(tenant.cluster_id):
        raise too_many(tenant.cluster_id)
    question = _open(asked, sealed, tenant)
    session = await browser_session(asked)
    _check_in_time(asked, question, session)
    log.info("sign in request", ip=asked.address, request_id=asked.id, **question.facts)
    if session is None:
        return await begin(asked)
    if (consent := await ask_consent(asked, session, tenant)) is not None:
        return consent
    if (
        await asyncio.to_thread(asked.desk.sessions.visit, session, tenant.cluster_id, question.idp_id, asked.now)
        is None
    ):
        return await begin(asked)  # signed out in another tab just now
    log.info(
        "sign in complete",
        ip=asked.address,
        request_id=asked.id,
        uid=session.identity.user_id,
        email=session.email,
        **question.facts,
    )
    return lead_on(asked, _answer(asked, question, session))


def too_many(caller: str) -> Refusal:
    text = "Too many sign-ins were begun within a minute. Wait a minute, and try again."
    return refuse(429, "That was too often", text, why="over the budget", caller=caller)


def _sealed(asked: Asked) -> SealedQuery:
    """Nothing is opened yet. Raises Refusal."""
    if len(asked.query) > 2 * MAX_QUERY:
        raise _unreadable("the query is too large")
    try:
        sealed = read_sealed(asked.query)
    except HandoffRejected as error:
        raise _unreadable(str(error)) from error
    if sealed is None:
        raise _unreadable("nothing is sealed in the query")
    if len(sealed.blob) > MAX_QUERY * 3 // 4:
        raise _unreadable("what was sealed is too large")
    return sealed


def _open(asked: Asked, sealed: SealedQuery, tenant: Tenant) -> Question:
    """Raises Refusal: 400 without detail for what cannot be opened (N-6), or leads out of the cluster (N-45)."""
    inner = _inner(asked, sealed)
    redirect_uri, programmatic = inner.get(REDIRECT, ""), inner.get(PROGRAMMATIC, "") == "true"
    if not (tenant.serves(redirect_uri) or (programmatic and tenant.takes_programmatic(redirect_uri))):
        raise _elsewhere("the redirect leads out of the cluster", tenant)
    callback_uri = inner.get(CALLBACK, "") or _callback_beside(redirect_uri)
    if not tenant.takes_callback(callback_uri):
        raise _elsewhere("the callback leads out of the cluster", tenant)
    return Question(
        sealed=sealed,
        tenant=tenant,
        inner=inner,
        redirect_uri=redirect_uri,
        callback_uri=callback_uri,
        programmatic=programmatic,
    )


def _inner(asked: Asked, sealed: SealedQuery) -> dict[str, str]:
    """With the newest key first, which nearly everybody uses."""
    for key in reversed(asked.keys.keys):
        try:
            return open_query(sealed, key.private, limit=MAX_INFLATED)
        except HandoffRejected as error:
            reason = str(error)
    raise _unreadable(reason)


def _check_in_time(asked: Asked, question: Question, session: Session | None) -> None:
    """A minute of reading our page, or five at the provider, do not make late what came in time (G-5)."""
    if session is not None and asked.desk.in_time.get(asked.in_time_key(session)):
        return
    try:
        check_lifetime(question.inner, asked.now)
    except HandoffExpired as error:
        raise trouble(400, Trouble.EXPIRED_LINK, why=str(error), cluster=question.tenant.cluster_id) from error
    except HandoffRejected as error:
        raise _unreadable(str(error)) from error


def _answer(asked: Asked, question: Question, session: Session) -> str:
    """The callback URL, with everything sealed to who asked; in the version of the question (N-7)."""
    callback = urlsplit(question.callback_uri)
    own = [
        (name.decode(errors="replace"), value.decode(errors="replace")) for name, value in parse_query(callback.query)
    ]
    answers = [
        (REDIRECT, question.redirect_uri),
        (
            PROFILE,
            identity_profile(
                session.identity, question.idp_id, with_tokens=question.tenant.passes_tokens, now=asked.now
            ),
        ),
        (VERSION, full_version()),
        *lifetime(asked.now),
    ]
    if question.programmatic:
        answers.append((PROGRAMMATIC, "true"))
    if question.inner.get(BIND):
        answers.append((BIND, question.inner[BIND]))
    query = seal_query(
        [*(pair for pair in own if pair[0] not in OURS), *answers],
        sender=asked.keys.current(asked.now).private,  # replicas look again when they know another one
        receiver=question.sealed.sender,
        version=question.sealed.version,
    )
    return urlunsplit((callback.scheme, callback.netloc, callback.path, query, ""))


def _callback_beside(redirect_uri: str) -> str:
    parts = urlsplit(redirect_uri)
    return urlunsplit((parts.scheme, parts.netloc, CALLBACK_PATH, "", ""))


def _unreadable(why: str) -> Refusal:
    text = "Go back to the site that you wanted to open, and begin there."
    return refuse(400, "This sign-in link cannot be read", text, why=why)


def _elsewhere(why: str, tenant: Tenant) -> Refusal:
    text = "It would have led you away from the site that asks, so we stopped here."
    return refuse(400, "This sign-in leads somewhere else", text, why=why, cluster=tenant.cluster_id)


def _shown(text: str) -> str:
    """A cluster's own words, fit for a log."""
    return "".join(character for character in text[:MAX_SHOWN] if character.isprintable())
