"""Records about people, built in one line each."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct

from pomerium_agent.pb.pomerium import device_pb2, session_pb2, user_pb2
from pomerium_agent.records import Record, pack
from pomerium_agent.sessions import entries

NOW = datetime(2030, 1, 1, tzinfo=UTC)  # what a ManualClock says at first
GONE = datetime(1, 1, 1, tzinfo=UTC)

Claims = Mapping[str, Sequence[Any]]


def session(
    id: str,
    user: str = "",
    *,
    expires: datetime | None = None,
    token: str = "",
    token_expires: datetime | None = None,
    refresh: str = "",
    id_token: str = "",
    claims: Claims | None = None,
    as_session: str = "",
    devices: Sequence[tuple[str, str]] = (),
    accessed: datetime | None = None,
    **fields: Any,
) -> Record:
    message = session_pb2.Session(id=id, user_id=user, **fields)
    if expires is not None:
        message.expires_at.FromDatetime(expires)
    if token_expires is not None:
        message.oauth_token.expires_at.FromDatetime(token_expires)
    if accessed is not None:
        message.accessed_at.FromDatetime(accessed)
    message.oauth_token.access_token = token
    message.oauth_token.refresh_token = refresh
    message.id_token.raw = id_token
    if as_session:
        message.impersonate_session_id = as_session
    for type_id, credential in devices:
        device = message.device_credentials.add(type_id=type_id)
        if credential:
            device.id = credential
        else:
            device.unavailable.SetInParent()
    _fill(message.claims, claims)
    return record(entries.SESSION, id, message)


def account(id: str, user: str, *, expires: datetime | None = None, accessed: datetime | None = None) -> Record:
    message = user_pb2.ServiceAccount(id=id, user_id=user)
    if accessed is not None:
        message.accessed_at.FromDatetime(accessed)
    if expires is not None:
        message.expires_at.FromDatetime(expires)
    return record(entries.SERVICE_ACCOUNT, id, message)


def user(id: str, email: str = "", *, name: str = "", claims: Claims | None = None) -> Record:
    message = user_pb2.User(id=id, email=email, name=name)
    _fill(message.claims, claims)
    return record(entries.USER, id, message)


def directory_user(id: str, **fields: Any) -> Record:
    struct = Struct()
    struct.update({"id": id, **fields})
    return record(entries.DIRECTORY_USER, id, struct)


def directory_group(id: str, name: str) -> Record:
    struct = Struct()
    struct.update({"id": id, "name": name, "email": ""})
    return record(entries.DIRECTORY_GROUP, id, struct)


def credential(id: str, enrollment: str) -> Record:
    return record(entries.CREDENTIAL, id, device_pb2.Credential(id=id, enrollment_id=enrollment))


def enrollment(id: str, approved_by: str = "") -> Record:
    return record(entries.ENROLLMENT, id, device_pb2.Enrollment(id=id, approved_by=approved_by))


def record(type: str, id: str, message: Message) -> Record:
    return Record(type=type, id=id, data=pack(message))


def gone(record: Record) -> Record:
    return record.as_deleted(NOW)


def _fill(target: Any, claims: Claims | None) -> None:
    for key, values in (claims or {}).items():
        listed = ListValue()
        listed.extend(values)
        target[key].CopyFrom(listed)
