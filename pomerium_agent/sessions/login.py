"""From an identity to a session: what a login writes, and the handle that names it (authenticate 4.4, 5.2)."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.errors import NotBelieved
from pomerium_agent.idp.identity import USER_ID_CLAIMS, Identity
from pomerium_agent.idp.signed import read_unverified
from pomerium_agent.pb.pomerium import session_pb2
from pomerium_agent.sessions.claims import text
from pomerium_agent.sessions.handle import Handle
from pomerium_agent.sessions.writing import set_claims, time_or_year_one, write_session

MAX_USER_ID = 1024  # characters; a handle must fit into a cookie
MAX_SECONDS = 253_402_300_799  # the last second of the year 9999


def user_id_of(claims: Mapping[str, Any]) -> str:
    """`oid`, else `sub`, else `user`, as text (N-17). Raises NotBelieved where none names anybody."""
    for name in USER_ID_CLAIMS:
        value = claims.get(name)
        id = text(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
        if id:
            if len(id) > MAX_USER_ID or not id.isprintable():
                raise NotBelieved(f"the user id in {name} is too long, or no text that can be used")
            return id
    raise NotBelieved("nobody is named: there is no oid, sub or user claim")


async def begin_session(
    backend: Backend,
    identity: Identity,
    *,
    idp_id: str,
    now: datetime,
    lifetime: timedelta,
    audience: Sequence[str] = (),
) -> Handle:
    """Write session and user in one Put, and return the handle, which tells readers how new they must be (N-16, N-29).

    Of the claims only the user id is in the handle, whatever else they are called (N-24). Raises NotBelieved for an
    identity that cannot be kept, DatabrokerUnavailable when nothing was written.
    """
    session = session_pb2.Session(
        id=str(uuid.uuid4()), user_id=user_id_of(identity.claims), idp_id=idp_id, audience=audience
    )
    session.issued_at.FromDatetime(now)
    session.accessed_at.FromDatetime(now)
    session.expires_at.FromDatetime(now + lifetime)
    _add_tokens(session, identity)
    try:
        set_claims(session.claims, identity.claims)
        written = await write_session(backend, session, identity.claims, keep_claims=True)
    except ValueError:
        raise NotBelieved("the claims hold something that cannot be kept") from None
    return Handle(
        id=session.id,
        user_id=session.user_id,
        idp_id=idp_id,
        databroker_server_version=written.server_version,
        databroker_record_version=max(record.version for record in written.records),
        issued_at=int(now.timestamp()),
    )


def _add_tokens(session: session_pb2.Session, identity: Identity) -> None:
    token = identity.token
    if token.access_token or token.refresh_token:
        session.oauth_token.access_token = str(token.access_token)
        session.oauth_token.token_type = token.token_type
        session.oauth_token.refresh_token = str(token.refresh_token)
        session.oauth_token.expires_at.CopyFrom(time_or_year_one(token.expires_at))
    if identity.id_token:
        try:
            _, claims = read_unverified(identity.id_token)
        except ValueError:
            return  # of the hosted service, which may send what it likes; nobody can use it
        session.id_token.raw = str(identity.id_token)
        session.id_token.issuer = _text(claims, "iss")
        session.id_token.subject = _text(claims, "sub")
        session.id_token.expires_at.CopyFrom(time_or_year_one(_time(claims, "exp")))
        session.id_token.issued_at.CopyFrom(time_or_year_one(_time(claims, "iat")))


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) else ""


def _time(claims: Mapping[str, Any], name: str) -> datetime | None:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
        return None
    return datetime.fromtimestamp(value, UTC)
