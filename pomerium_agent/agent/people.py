"""Who is signed in, for the operator of this machine: lists, one session in full, and revocation. Never a token."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import nsmallest
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from pomerium_agent.authenticate import Site
from pomerium_agent.databroker import Backend
from pomerium_agent.errors import DatabrokerUnavailable, InvalidRequest, RecordNotFound
from pomerium_agent.pb.pomerium import session_pb2
from pomerium_agent.policy.complaints import shown
from pomerium_agent.records import Record, unpack
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.sessions.claims import thaw
from pomerium_agent.sessions.entries import SESSION, YEAR_1971, SessionEntry, decode_session
from pomerium_agent.sessions.live import Sessions
from pomerium_agent.sessions.revoke import revoke_sessions, revoke_sessions_where

PAGE, LARGEST_PAGE = 100, 1000
MOST_IDS = 1000  # in one revocation
SLICE = 1000  # sessions that are looked at before others get their turn
LIST_WORDS = frozenset({"user", "email", "limit", "after"})


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Where sessions are, for whoever may open the control socket."""

    backend: Backend
    sessions: Sessions
    site: Latest[Site]


async def list_sessions(people: People, said: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """One page of the sessions of a `user` or `email`, or of all, in the order of their ids, after the id `after`.

    Raises InvalidRequest, and DatabrokerUnavailable.
    """
    unknown = sorted(said.keys() - LIST_WORDS)
    if unknown:
        raise InvalidRequest(f"sessions can be listed by {', '.join(sorted(LIST_WORDS))}, and not by {unknown[0]!r}")
    limit = said.get("limit", str(PAGE))
    if not (limit.isascii() and limit.isdigit() and 0 < int(limit[:9]) <= LARGEST_PAGE):
        raise InvalidRequest(f"limit: it is a number from 1 to {LARGEST_PAGE}")
    found = await _matching(people, user_id=said.get("user", ""), email=said.get("email", ""))
    later = nsmallest(int(limit) + 1, (id for id in found if id > said.get("after", "")))
    page = later[: int(limit)]
    listed = []
    for id in page:
        try:
            listed.append(_in_short(people, await people.backend.get(SESSION, id), now))
        except RecordNotFound:
            continue  # it ended meanwhile
    return {"sessions": listed, "total": len(found), "next": page[-1] if len(later) > len(page) else ""}


async def show_session(people: People, id: str, now: datetime) -> dict[str, Any]:
    """Everything about one session but its tokens. Raises RecordNotFound, and DatabrokerUnavailable."""
    try:
        record = await people.backend.get(SESSION, id)
    except RecordNotFound:
        raise RecordNotFound(f"there is no session {shown(id)}; it may have ended") from None
    session, entry = unpack(record.data, session_pb2.Session), decode_session(record)
    if session is None or entry is None:
        raise RecordNotFound(f"the record of session {shown(id)} cannot be read")
    user = people.sessions.user(session.user_id)
    return {
        **_in_short(people, record, now),
        "audience": list(session.audience),
        "impersonates": session.impersonate_session_id,
        "devices": [{"type": type, "credential": credential} for type, credential in entry.devices],
        "has_refresh_token": bool(session.oauth_token.refresh_token),
        "refresh_disabled": session.refresh_disabled,
        "access_token_expires_at": _time(session.oauth_token.expires_at),
        "id_token_expires_at": _time(session.id_token.expires_at),
        "claims": thaw(entry.claims),
        "user_claims": thaw(user.claims) if user is not None else {},
    }


async def revoke(people: People, said: Mapping[str, object], now: datetime) -> dict[str, Any]:
    """End the sessions with these `ids`, or all of a `user` or an `email`. Raises as `list_sessions`.

    It takes effect at the next request on every replica (N-38). `unknown` are the ids that no session had.
    """
    given = sorted(said)
    if given == ["ids"]:
        ids = said["ids"]
        if not isinstance(ids, list) or not ids or not all(isinstance(id, str) and id for id in ids):
            raise InvalidRequest("ids: it is a list of session ids")
        if len(ids) > MOST_IDS:
            raise InvalidRequest(f"ids: no more than {MOST_IDS} at a time")
        revoked = await revoke_sessions(people.backend, ids, now=now)
        gone = {each.id for each in revoked}
        unknown = [id for id in dict.fromkeys(ids) if id not in gone]
    elif given in (["user"], ["email"]):
        name = said[given[0]]
        if not isinstance(name, str) or not name:
            raise InvalidRequest(f"{given[0]}: it is a text, and not empty")
        users = {name} if given == ["user"] else await _users_with(people, name)
        revoked = await revoke_sessions_where(people.backend, lambda session: session.user_id in users, now=now)
        unknown = []
    else:
        raise InvalidRequest("say which sessions to revoke: one of ids, user and email")
    return {
        "revoked": [
            {"id": each.id, "user_id": each.user_id, "email": _email(people, each.user_id), "idp_id": each.idp_id}
            for each in revoked
        ],
        "unknown": unknown,
    }


async def _matching(people: People, *, user_id: str, email: str) -> list[str]:
    """The ids of the sessions of one user, or of all, in no order."""
    if not user_id and not email:
        return list(_rows(people))
    users = {user_id} if user_id else await _users_with(people, email)
    if user_id and email:
        users &= await _users_with(people, email)
    found = []
    for number, (id, entry) in enumerate(list(_rows(people).items()), 1):
        if entry.user_id in users:
            found.append(id)
        if number % SLICE == 0:
            await asyncio.sleep(0)
    return found


async def _users_with(people: People, email: str) -> set[str]:
    """The users who have sessions and that address, in whatever case."""
    wanted, users = email.casefold(), set()
    for number, user_id in enumerate({entry.user_id for entry in _rows(people).values()}, 1):
        if _email(people, user_id).casefold() == wanted:
            users.add(user_id)
        if number % SLICE == 0:
            await asyncio.sleep(0)
    return users


def _rows(people: People) -> Mapping[str, SessionEntry]:
    if not people.sessions.loaded:
        raise DatabrokerUnavailable("the sessions have not been read yet")
    return people.sessions.all


def _email(people: People, user_id: str) -> str:
    """As headers show it: the directory's, else the login's."""
    directory, user = people.sessions.directory_user(user_id), people.sessions.user(user_id)
    if directory is not None and directory.email is not None:
        return directory.email
    return user.email if user is not None else ""


def _in_short(people: People, record: Record, now: datetime) -> dict[str, Any]:
    session = unpack(record.data, session_pb2.Session) or session_pb2.Session()
    entry = decode_session(record)
    until = entry.usable_until() if entry is not None else 0.0
    user, provider = people.sessions.user(session.user_id), people.site.value.providers.get(session.idp_id)
    return {
        "id": record.id,
        "user_id": session.user_id,
        "email": _email(people, session.user_id),
        "name": user.name if user is not None else "",
        "idp_id": session.idp_id,
        "provider": (provider.type or "the hosted service") if provider is not None else "",
        "issued_at": _time(session.issued_at),
        "expires_at": _time(session.expires_at),
        "accessed_at": _time(session.accessed_at),
        "expired": until is not None and until < now.timestamp(),
    }


def _time(stamp: Timestamp) -> str | None:
    if stamp.seconds < YEAR_1971:
        return None
    return stamp.ToDatetime(UTC).isoformat(timespec="seconds")
