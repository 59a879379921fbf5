"""What the identity manager does with one session: refresh it, ask who its user is now, or end it (authenticate 7.3).

    provider says              the session                       why
    ────────────────────────   ───────────────────────────────   ────────────────────────────────────────────────
    fresh tokens               keeps going                       tokens, claims and user are written
    nothing, 5xx, 429          waits, tries again                an outage ends nobody's session (G-9, N-36)
    the grant is over          ends                              invalid_grant and its like (N-36)
    it does not know us        waits, tries again                our settings are wrong, the user is not
    what cannot be believed    ends                              another person's claims, a false signature

It reads the record at the last moment, so that what another wrote meanwhile is never undone.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import structlog

from pomerium_agent.authenticate.manager.facts import SPREAD, Facts, facts_of, renewal_time
from pomerium_agent.authenticate.manager.renew import (
    SESSION_FIELDS,
    USER_FIELDS,
    informed,
    known_claims,
    renewed,
    token_of,
)
from pomerium_agent.authenticate.site import Site
from pomerium_agent.databroker.backend import Backend, Written
from pomerium_agent.errors import (
    DatabrokerUnavailable,
    GrantEnded,
    NotBelieved,
    ProviderRefused,
    ProviderUnavailable,
    RecordNotFound,
    SettingsError,
)
from pomerium_agent.idp.claims import check_same_subject
from pomerium_agent.idp.identity import Claims, Identity
from pomerium_agent.idp.kinds import KINDS
from pomerium_agent.idp.providers import Providers
from pomerium_agent.idp.settings import ProviderSettings
from pomerium_agent.pb.pomerium import session_pb2, user_pb2
from pomerium_agent.records import Record, pack, unpack
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.supervisor import until_done
from pomerium_agent.sessions.entries import SESSION, USER
from pomerium_agent.sessions.revoke import revoke_sessions

log = structlog.get_logger(__name__)

WRITE_SECONDS = 5.0
LAST_WRITE_SECONDS = 2.0  # for tokens that exist nowhere else, when we are told to stop


class Outcome(Enum):
    """What became of a session."""

    KEPT = "kept"  # nothing was due, or nothing can be done
    RENEWED = "renewed"
    WAITS = "waits"  # to be tried again
    SUSPECT = "suspect"  # its access token is not taken; a refresh will tell
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """`facts` and `version` are of the record as it is now, where that is known."""

    outcome: Outcome
    reason: str = ""
    facts: Facts | None = None
    version: int = 0


GONE, KEPT = Done(outcome=Outcome.GONE), Done(outcome=Outcome.KEPT)


def provider_for(facts: Facts, site: Site) -> ProviderSettings | None:
    """Whom to ask about a session; None when nobody can be asked, as in the stateless flow (authenticate 7.4)."""
    settings = site.providers.get(facts.idp_id) if site.login.refreshes else None
    return settings if settings is not None and settings.type else None


def refreshes(facts: Facts, site: Site) -> bool:
    """Whether the tokens of a session can be renewed; if not, it ends at its own time (N-37)."""
    settings = provider_for(facts, site)
    if settings is None or not facts.access_token:
        return False
    kind = KINDS.get(settings.type)
    return facts.refresh_token or (kind is not None and kind.refreshes_without_token)


class Work:
    """The actions, each on the session with one id."""

    def __init__(self, *, backend: Backend, site: Latest[Site], providers: Providers, clock: Clock) -> None:
        self._backend = backend
        self._site = site
        self._providers = providers
        self._clock = clock

    async def refresh(self, id: str, *, suspect: bool = False) -> Done:
        """Renew the tokens if they are near their end, or `suspect`; remove the session when it is at its end itself.

        Raises DatabrokerUnavailable when nothing was done.
        """
        record, session = await self._session(id)
        if record is None:
            return GONE
        if session is None:
            return KEPT
        facts, now = facts_of(session), self._clock.now().timestamp()
        if facts.expires_at is not None and facts.expires_at <= now:
            return await self._end(id, facts, "it expired")
        site = self._site.value
        settings = provider_for(facts, site)
        kept = Done(outcome=Outcome.KEPT, facts=facts, version=record.version)
        if settings is None or not refreshes(facts, site):
            return kept
        renew = renewal_time(facts, with_id_token=site.login.ends_with_id_token)
        if not suspect and (renew is None or renew - SPREAD > now):
            return kept
        if facts.expires_at is None:
            return await self._end(id, facts, "it has no end of its own")
        try:
            identity = await self._providers.get(settings).refresh(token_of(session), known_claims(session))
        except GrantEnded as error:
            return await self._grant_ended(id, session, facts, str(error))
        except NotBelieved as error:
            return await self._end(id, facts, str(error))
        except (ProviderUnavailable, ProviderRefused, SettingsError) as error:
            return Done(outcome=Outcome.WAITS, reason=str(error), facts=facts, version=record.version)
        return await self._keep(session, identity, with_id_token=site.login.ends_with_id_token)

    async def ask_who(self, id: str) -> Done:
        """Learn from userinfo what the user's record should say; the session is not changed (authenticate 7.1)."""
        record, session = await self._session(id)
        if record is None or session is None:
            return KEPT
        facts, now = facts_of(session), self._clock.now().timestamp()
        site = self._site.value
        settings = provider_for(facts, site)
        expired = any(time is not None and time <= now for time in (facts.expires_at, facts.token_expires_at))
        if settings is None or not facts.access_token or expired:
            return KEPT
        try:
            provider = self._providers.get(settings)
            claims = await provider.userinfo(session.oauth_token.access_token)
            if claims:
                check_same_subject(claims, known_claims(session), provider=provider.name)
        except GrantEnded as error:
            return await self._grant_ended(id, session, facts, str(error), refreshable=refreshes(facts, site))
        except NotBelieved as error:
            return await self._end(id, facts, str(error))
        except (ProviderUnavailable, ProviderRefused, SettingsError) as error:
            log.debug("userinfo not had", session=id, reason=str(error))
            return KEPT
        if claims:
            await self._put_user(facts.user_id, claims)
        return KEPT

    async def _session(self, id: str) -> tuple[Record | None, session_pb2.Session | None]:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                record = await self._backend.get(SESSION, id)
        except RecordNotFound:
            return None, None
        except TimeoutError:
            raise DatabrokerUnavailable(f"a session was not read within {WRITE_SECONDS:g} s") from None
        return record, unpack(record.data, session_pb2.Session)

    async def _grant_ended(
        self, id: str, used: session_pb2.Session, facts: Facts, reason: str, *, refreshable: bool = False
    ) -> Done:
        """Unless the session has other tokens by now, or can get them: then it is only the old ones that are over."""
        record, session = await self._session(id)
        if record is not None and session is not None and session.oauth_token != used.oauth_token:
            return Done(outcome=Outcome.KEPT, facts=facts_of(session), version=record.version)
        return Done(outcome=Outcome.SUSPECT) if refreshable else await self._end(id, facts, reason)

    async def _end(self, id: str, facts: Facts, reason: str) -> Done:
        await revoke_sessions(self._backend, [id], now=self._clock.now())
        log.info("session ended", session=id, user=facts.user_id, reason=reason)
        return GONE

    async def _keep(self, session: session_pb2.Session, identity: Identity, *, with_id_token: bool) -> Done:
        """Write what the provider gave. Its old tokens may be void from now on, so this is not given up."""
        fresh = renewed(session, identity, with_id_token=with_id_token)
        record = Record(type=SESSION, id=session.id, data=pack(fresh))

        async def write() -> Written:
            return await self._patch([record], SESSION_FIELDS)

        try:
            written = await until_done("refreshed session", write, clock=self._clock, backoff=Backoff(cap=5.0))
        except asyncio.CancelledError:
            try:
                async with asyncio.timeout(LAST_WRITE_SECONDS):
                    await write()
            except (DatabrokerUnavailable, TimeoutError):
                log.warning("a refreshed session was not written", session=session.id)
            raise
        if not written.records:
            return GONE  # it was ended meanwhile, and stays so
        await self._put_user(session.user_id, identity.claims)
        return Done(outcome=Outcome.RENEWED, facts=facts_of(fresh), version=written.records[0].version)

    async def _put_user(self, id: str, claims: Claims) -> None:
        """A failure is not worth a repetition: userinfo is asked for again soon."""
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                try:
                    record = await self._backend.get(USER, id)
                except RecordNotFound:
                    user = informed(user_pb2.User(id=id), claims)
                    await self._backend.put([Record(type=USER, id=id, data=pack(user))])
                    return
                before = unpack(record.data, user_pb2.User)
                if before is not None and (after := informed(before, claims)) != before:
                    await self._backend.patch([Record(type=USER, id=id, data=pack(after))], USER_FIELDS)
        except (DatabrokerUnavailable, TimeoutError) as error:
            log.warning("user not written", user=id, reason=str(error) or "no answer in time")

    async def _patch(self, records: Sequence[Record], fields: Sequence[str]) -> Written:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                return await self._backend.patch(records, fields)
        except TimeoutError:
            raise DatabrokerUnavailable(f"a session was not written within {WRITE_SECONDS:g} s") from None
