"""From a session to the person behind it: lookup order, validity and impersonation. Pure, and total."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import inf
from types import MappingProxyType

from pomerium_agent.policy.facts import STRANGER, DeviceCredential, Identity
from pomerium_agent.sessions.claims import NO_CLAIMS, Claims, overlay
from pomerium_agent.sessions.entries import AccountEntry, SessionEntry
from pomerium_agent.sessions.handle import Handle
from pomerium_agent.sessions.live import Sessions
from pomerium_agent.settings import Secret

NO_GROUPS: Mapping[str, str] = MappingProxyType({})
NO_SECRET = Secret("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Impersonated:
    """Whom a session stands for, when that session and its user exist (authorize 20)."""

    session_id: str
    user_id: str
    email: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Who makes a request: what policies see, what headers say, what the log and the tracking keep (A-11).

    It holds while `sessions.version_of(session_id)` is `version` and the time is before `valid_until`. A session whose
    impersonated one is gone resolves to an `identity` that is not present.
    """

    session_id: str  # of the request, never of the impersonated session: `sid`, audit, tracking
    service_account: bool
    identity: Identity
    version: int
    valid_until: float = inf  # seconds since the epoch
    actor_user_id: str = ""  # of the original session, for the log
    actor_email: str = ""  # of that user's record, never the directory's (authorize 20)
    impersonated: Impersonated | None = None
    email: str = ""  # for headers: the directory's as soon as it has the field, be it empty (authorize 13)
    session_claims: Claims = field(default_factory=lambda: NO_CLAIMS, repr=False)  # headers prefer these
    user_claims: Claims = field(default_factory=lambda: NO_CLAIMS, repr=False)
    group_names: Mapping[str, str] = field(default_factory=lambda: NO_GROUPS, repr=False)  # of the known groups, by id
    access_token: Secret = NO_SECRET
    id_token: Secret = NO_SECRET

    @property
    def user_id(self) -> str:
        """The user on whose behalf the request is made; empty when nobody is."""
        return self.identity.user_id

    def holds(self, now: datetime) -> bool:
        """Whether nothing in it has expired."""
        return now.timestamp() < self.valid_until


def resolve(
    sessions: Sessions, handle_or_id: Handle | str, now: datetime, *, handle_lifetime: timedelta | None = None
) -> Resolved | None:
    """Who is behind a handle or a session id, as of `now`; None when there is no valid session (A-7, A-8).

    The record is the Session of that id, else the ServiceAccount (authorize 4.1), and must be valid (authorize 5).
    What policies see follows policy 4.1: a service account first, then the impersonated session, then the session;
    a missing impersonated session never falls back to the impersonator (P-8).

    `handle_lifetime` bounds the age of handles of sessions, never of service accounts (W2).
    """
    handle = handle_or_id if isinstance(handle_or_id, Handle) else None
    id = handle_or_id.id if isinstance(handle_or_id, Handle) else handle_or_id
    time = now.timestamp()
    session, account = sessions.session(id), sessions.service_account(id)
    if session is None:
        if account is None or _past(account.expires_at, time):
            return None
        return _of_account(sessions, id, account, account.user_id, _until(account.expires_at))
    ends = _until(session.usable_until())
    if handle_lifetime is not None and handle is not None and handle.issued_at is not None:
        ends = min(ends, handle.issued_at + handle_lifetime.total_seconds())
    if ends < time:
        return None
    if account is not None and not _past(account.expires_at, time):
        return _of_account(sessions, id, account, session.user_id, min(ends, _until(account.expires_at)))
    return _of_session(sessions, id, session, time, ends)


def _of_account(sessions: Sessions, id: str, account: AccountEntry, actor: str, ends: float) -> Resolved:
    return _resolved(sessions, id, account, effective=SessionEntry(user_id=account.user_id), actor=actor, ends=ends)


def _of_session(sessions: Sessions, id: str, session: SessionEntry, time: float, ends: float) -> Resolved:
    if not session.impersonates:
        return _resolved(sessions, id, None, effective=session, actor=session.user_id, ends=ends)
    target = sessions.session(session.impersonates)
    if target is not None and not _past(target.expires_at, time):
        ends = min(ends, _until(target.expires_at))
        return _resolved(
            sessions, id, None, effective=target, effective_id=session.impersonates, actor=session.user_id, ends=ends
        )
    return Resolved(
        session_id=id,
        service_account=False,
        identity=STRANGER,
        version=sessions.version_of(id),
        valid_until=ends,
        actor_user_id=session.user_id,
        actor_email=_user_email(sessions, session.user_id),
    )


def _resolved(
    sessions: Sessions,
    id: str,
    account: AccountEntry | None,
    *,
    effective: SessionEntry,
    effective_id: str = "",
    actor: str,
    ends: float,
) -> Resolved:
    user_id = effective.user_id
    user, directory = sessions.user(user_id), sessions.directory_user(user_id)
    user_email, user_claims = (user.email, user.claims) if user is not None else ("", NO_CLAIMS)
    directory_email = directory.email if directory is not None else None
    group_ids = directory.group_ids if directory is not None else None
    return Resolved(
        session_id=id,
        service_account=account is not None,
        identity=Identity(
            present=True,
            service_account=account is not None,
            session_id=effective_id or id,
            user_id=user_id,
            email=directory_email or user_email,
            claims=overlay(effective.claims, user_claims),
            groups=group_ids,
            devices=_devices(sessions, effective),
        ),
        version=sessions.version_of(id),
        valid_until=ends,
        actor_user_id=actor,
        actor_email=_user_email(sessions, actor),
        impersonated=Impersonated(session_id=effective_id, user_id=user_id, email=user_email)
        if effective_id and user is not None
        else None,
        email=directory_email if directory_email is not None else user_email,
        session_claims=effective.claims,
        user_claims=user_claims,
        group_names=_group_names(sessions, group_ids or ()),
        access_token=effective.access_token,
        id_token=effective.id_token,
    )


def _devices(sessions: Sessions, session: SessionEntry) -> tuple[DeviceCredential, ...]:
    devices = []
    for type_id, id in session.devices:
        credential = sessions.credential(id) if id else None
        enrollment = sessions.enrollment(credential.enrollment_id) if credential is not None else None
        devices.append(
            DeviceCredential(
                type_id=type_id,
                id=id,
                found=credential is not None,
                enrolled=enrollment is not None,
                approved=enrollment is not None and enrollment.approved,
            )
        )
    return tuple(devices)


def _group_names(sessions: Sessions, ids: tuple[str, ...]) -> Mapping[str, str]:
    found = ((id, sessions.directory_group(id)) for id in ids)
    return {id: group.name for id, group in found if group is not None}


def _user_email(sessions: Sessions, user_id: str) -> str:
    user = sessions.user(user_id)
    return user.email if user is not None else ""


def _until(expires_at: float | None) -> float:
    return inf if expires_at is None else expires_at


def _past(expires_at: float | None, time: float) -> bool:
    return expires_at is not None and expires_at < time
