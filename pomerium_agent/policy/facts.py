"""What a policy may look at: one request and who made it, gathered beforehand and never changed (P-28)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import Any

NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """The leaf that the client presented, trusted or not (policy 8.2)."""

    fingerprint: str  # SHA-256 of the DER, lower-case hex
    spki_hash: str  # SHA-256 of the SubjectPublicKeyInfo DER, padded base64
    dns_names: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request (policy 4.2). `headers` has lower-case names; repeated ones are joined with a comma."""

    method: str = "GET"
    scheme: str = "https"
    host: str = ""  # as sent, with the port
    path: str = "/"  # percent-decoded, without the query; empty when it cannot be decoded (P-16)
    raw_path: str = "/"
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: NONE)
    ip: IPv4Address | IPv6Address | None = None  # the direct peer, IPv4-mapped unmapped (P-17)
    certificate: Certificate | None = None
    certificate_valid: bool = True  # also true when no CA is configured for the route (policy 6)
    ssh_username: str = ""
    ssh_publickey: bytes = b""  # wire format
    mcp_method: str = ""
    mcp_tool: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCredential:
    """One device that the session is bound to; the records behind it may be gone (policy 8.1)."""

    type_id: str
    id: str = ""
    found: bool = False  # the credential record exists
    enrolled: bool = False  # the enrollment record exists
    approved: bool = False  # the enrollment has somebody in approved_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who makes the request, resolved as in policy 4.1: the impersonated session, if there is one.

    `present` is false for a stranger; then everything else is empty. `claims` are those that policies see:
    user claims laid over session claims (P-11).
    """

    present: bool = False
    service_account: bool = False
    session_id: str = ""  # of the record that was found
    user_id: str = ""
    email: str = ""  # directory email, else the user's (P-10)
    claims: Mapping[str, tuple[Any, ...]] = field(default_factory=lambda: NONE)
    groups: tuple[str, ...] | None = None  # directory group ids; None: there is no directory user (P-15)
    devices: tuple[DeviceCredential, ...] = ()


STRANGER = Identity()


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything one decision may depend on."""

    request: Request
    identity: Identity = STRANGER
    now: datetime = field(kw_only=True)  # with a zone; criteria never look at a clock themselves
