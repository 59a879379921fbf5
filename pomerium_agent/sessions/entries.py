"""What this replica keeps of each record about people: decoded once, only what is asked for, never changed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from sys import intern
from types import MappingProxyType
from typing import Any

from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from pomerium_agent.pb.pomerium import device_pb2, session_pb2, user_pb2
from pomerium_agent.records import Record, type_url, unpack
from pomerium_agent.sessions.claims import NO_CLAIMS, Claims, tidy_number
from pomerium_agent.settings import Secret

SESSION = type_url(session_pb2.Session)
SERVICE_ACCOUNT = type_url(user_pb2.ServiceAccount)
USER = type_url(user_pb2.User)
DIRECTORY_USER = "pomerium.io/DirectoryUser"
DIRECTORY_GROUP = "pomerium.io/DirectoryGroup"
CREDENTIAL = type_url(device_pb2.Credential)
ENROLLMENT = type_url(device_pb2.Enrollment)

YEAR_1971 = 31_536_000  # a time before is how "none" is written (authenticate 3.10)
NO_SECRET = Secret("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One record as it is kept. `version` is the record's, `generation` counts the changes that mattered here.

    Both are left out of comparisons: a record that was only accessed again has changed nothing.
    """

    version: int = field(default=0, compare=False, repr=False)
    generation: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEntry(Entry):
    """A session. Times are seconds since the epoch; None never comes."""

    user_id: str = ""
    idp_id: str = ""
    expires_at: float | None = None
    token_expires_at: float | None = None
    refreshable: bool = False  # an expired token can still be renewed
    impersonates: str = ""  # the id of another session
    claims: Claims = field(default_factory=lambda: NO_CLAIMS, repr=False)
    devices: tuple[tuple[str, str], ...] = ()  # type and credential id, which is empty for an unavailable one
    access_token: Secret = NO_SECRET
    id_token: Secret = NO_SECRET

    def usable_until(self) -> float | None:
        """The moment after which the session is invalid by itself (authorize 5)."""
        if self.token_expires_at is None or self.refreshable:
            return self.expires_at
        if self.expires_at is None:
            return self.token_expires_at
        return min(self.expires_at, self.token_expires_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountEntry(Entry):
    """A service account."""

    user_id: str = ""
    expires_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UserEntry(Entry):
    """A user who logged in once."""

    name: str = ""
    email: str = ""
    claims: Claims = field(default_factory=lambda: NO_CLAIMS, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryUserEntry(Entry):
    """A user as the directory knows them. `email` is None when the directory says nothing of it."""

    email: str | None = None
    display_name: str = ""
    group_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryGroupEntry(Entry):
    """A group of the directory."""

    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialEntry(Entry):
    """A registered device."""

    enrollment_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrollmentEntry(Entry):
    """The enrolment of a device."""

    approved: bool = False


def decode_session(record: Record) -> SessionEntry | None:
    """None when the record is of another type or cannot be read, as for all of these (A-8)."""
    session = unpack(record.data, session_pb2.Session)
    if session is None:
        return None
    token = session.oauth_token
    return SessionEntry(
        version=record.version,
        user_id=session.user_id,
        idp_id=intern(session.idp_id),
        expires_at=_time(session.expires_at) if session.HasField("expires_at") else None,
        token_expires_at=_time(token.expires_at) if token.HasField("expires_at") else None,
        refreshable=bool(token.refresh_token) and not session.refresh_disabled,
        impersonates=session.impersonate_session_id,
        claims=_claims(session.claims),
        devices=tuple((intern(device.type_id), device.id) for device in session.device_credentials),
        access_token=_secret(token.access_token),
        id_token=_secret(session.id_token.raw),
    )


def decode_account(record: Record) -> AccountEntry | None:
    account = unpack(record.data, user_pb2.ServiceAccount)
    if account is None:
        return None
    return AccountEntry(
        version=record.version,
        user_id=account.user_id,
        expires_at=_time(account.expires_at) if account.HasField("expires_at") else None,
    )


def decode_user(record: Record) -> UserEntry | None:
    user = unpack(record.data, user_pb2.User)
    if user is None:
        return None
    return UserEntry(version=record.version, name=user.name, email=user.email, claims=_claims(user.claims))


def decode_directory_user(record: Record) -> DirectoryUserEntry | None:
    user = unpack(record.data, Struct)
    if user is None:
        return None
    group_ids = user.fields["group_ids"].list_value.values if "group_ids" in user.fields else ()
    return DirectoryUserEntry(
        version=record.version,
        email=_text(user, "email"),
        display_name=_text(user, "display_name") or "",
        group_ids=tuple(intern(id.string_value) for id in group_ids if id.WhichOneof("kind") == "string_value"),
    )


def decode_directory_group(record: Record) -> DirectoryGroupEntry | None:
    group = unpack(record.data, Struct)
    return None if group is None else DirectoryGroupEntry(version=record.version, name=_text(group, "name") or "")


def decode_credential(record: Record) -> CredentialEntry | None:
    credential = unpack(record.data, device_pb2.Credential)
    if credential is None:
        return None
    return CredentialEntry(version=record.version, enrollment_id=credential.enrollment_id)


def decode_enrollment(record: Record) -> EnrollmentEntry | None:
    enrollment = unpack(record.data, device_pb2.Enrollment)
    return (
        None if enrollment is None else EnrollmentEntry(version=record.version, approved=bool(enrollment.approved_by))
    )


def _time(timestamp: Timestamp) -> float | None:
    return timestamp.seconds + timestamp.nanos / 1e9 if timestamp.seconds >= YEAR_1971 else None


def _secret(text: str) -> Secret:
    return Secret(text) if text else NO_SECRET


def _text(struct: Struct, name: str) -> str | None:
    value = struct.fields.get(name)
    return value.string_value if value is not None and value.WhichOneof("kind") == "string_value" else None


def _claims(claims: Mapping[str, ListValue]) -> Claims:
    if not claims:
        return NO_CLAIMS
    return MappingProxyType({intern(key): tuple(map(_plain, values.values)) for key, values in claims.items()})


def _plain(value: Value) -> Any:
    """A value of a Struct as a plain and frozen one; protobuf bounds how deep they nest."""
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        return tidy_number(value.number_value)
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return tuple(map(_plain, value.list_value.values))
    if kind == "struct_value":
        return MappingProxyType({key: _plain(inner) for key, inner in value.struct_value.fields.items()})
    return None
