"""Sessions and users as they are written: a login and a bearer token leave the same records (authenticate 3.10)."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from google.protobuf.struct_pb2 import ListValue
from google.protobuf.timestamp_pb2 import Timestamp

from pomerium_agent.databroker.backend import Backend, Written
from pomerium_agent.errors import DatabrokerUnavailable, RecordNotFound
from pomerium_agent.pb.pomerium import session_pb2, user_pb2
from pomerium_agent.records import Record, pack, unpack
from pomerium_agent.sessions.claims import flatten, thaw
from pomerium_agent.sessions.entries import SESSION, USER

WRITE_SECONDS = 5.0
YEAR_ONE = -62_135_596_800  # seconds; how a token without an expiry is stored (authenticate 3.10)


def set_claims(kept: Any, claims: Mapping[str, Any]) -> None:
    """Lay flattened claims over the `claims` of a record, key by key. Raises ValueError for what none can hold."""
    try:
        for key, values in flatten(claims).items():
            listed = ListValue()
            listed.extend(thaw(list(values)))
            kept[key].CopyFrom(listed)
    except (ValueError, OverflowError, TypeError, RecursionError):
        raise ValueError("the claims cannot be kept") from None


def time_or_year_one(when: datetime | None) -> Timestamp:
    stamp = Timestamp(seconds=YEAR_ONE)
    if when is not None:
        stamp.FromDatetime(when)
    return stamp


async def write_session(
    backend: Backend, session: session_pb2.Session, claims: Mapping[str, Any], *, keep_claims: bool
) -> Written:
    """Write session and user together or not at all; the session is the last record of the answer (N-16).

    The user's record stays what it is, but for name and email where the claims have them, and with `keep_claims` for
    the claims: someone who comes by another way keeps theirs, and their devices. Raises DatabrokerUnavailable, and
    ValueError for claims that no record can hold.
    """
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            user = await _user(backend, session.user_id)
            user.name = _claim(claims, "name") or user.name
            user.email = _claim(claims, "email") or user.email
            if keep_claims:
                set_claims(user.claims, claims)
            return await backend.put(
                [
                    Record(type=USER, id=user.id, data=pack(user)),
                    Record(type=SESSION, id=session.id, data=pack(session)),
                ]
            )
    except TimeoutError:
        raise DatabrokerUnavailable(f"a session was not written within {WRITE_SECONDS:g} s") from None


async def _user(backend: Backend, id: str) -> user_pb2.User:
    try:
        record = await backend.get(USER, id)
    except RecordNotFound:
        return user_pb2.User(id=id)
    return unpack(record.data, user_pb2.User) or user_pb2.User(id=id)


def _claim(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return value if isinstance(value, str) and value.isprintable() else ""
