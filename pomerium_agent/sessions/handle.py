"""The session handle: the small signed reference to a session that a visitor carries; it grants nothing by itself."""

import base64
import binascii
import hashlib
import hmac
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

KEY_BYTES = 32
MAX_TOKEN = 8192  # characters; ours have a few hundred, and browsers refuse cookies above 4096
REMEMBERED = 4096
MAX_VERSION = 2**64 - 1
MAX_TIME = 2**53  # beyond this JSON numbers are not exact
_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """What a handle says (authorize 4.1). Only `id` and the hint matter to a decision; nothing in it expires (W2).

    `databroker_…_version` is the read-your-writes hint: whoever reads the session must know at least this much.
    """

    id: str  # of a Session or a ServiceAccount
    user_id: str = ""
    idp_id: str = ""  # empty: of no identity provider, as with service accounts
    databroker_server_version: int = 0
    databroker_record_version: int = 0
    issuer: str = ""
    audience: tuple[str, ...] = ()
    issued_at: int | None = None  # seconds since the epoch


def parse_handle(token: str, keys: Sequence[bytes]) -> Handle | None:
    """Read a handle that was signed with one of `keys`; None for anything else (A-5). Never raises.

    Only HS256 exists here: the signature is checked as such before a single byte is believed, so there is no
    algorithm to be confused about. `exp` and `nbf` are not looked at, as in the reference.
    """
    if len(token) > MAX_TOKEN or not token.isascii():
        return None
    signed, _, signature_text = token.rpartition(".")
    header_text, _, payload_text = signed.partition(".")
    signature = _decode(signature_text)
    if not (header_text and payload_text and signature) or not _signed_by_any(signed.encode(), signature, keys):
        return None
    claims = _object(_decode(payload_text)) if header_text == _HEADER or _is_good(header_text) else None
    return _handle(claims) if claims is not None else None


def sign_handle(handle: Handle, key: bytes) -> str:
    """The handle as a compact JWS; the same handle gives the same text. Empty fields are left out (N-27).

    Raises ValueError when the key does not have 32 bytes or the handle names nothing.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"the key of session handles has {len(key)} bytes; it must have {KEY_BYTES}")
    if not handle.id:
        raise ValueError("a session handle must name a session")
    fields: tuple[tuple[str, object], ...] = (
        ("aud", list(handle.audience)),
        ("databroker_record_version", handle.databroker_record_version),
        ("databroker_server_version", handle.databroker_server_version),
        ("idp_id", handle.idp_id),
        ("iss", handle.issuer),
        ("jti", handle.id),
        ("sub", handle.user_id),
    )
    claims = {name: value for name, value in fields if value}
    if handle.issued_at is not None:
        claims["iat"] = handle.issued_at
    payload = json.dumps(claims, sort_keys=True, separators=(",", ":")).encode()
    signed = f"{_HEADER}.{_encode(payload)}"
    return f"{signed}.{_encode(hmac.digest(key, signed.encode(), 'sha256'))}"


class HandleReader:
    """Parses handles and remembers the good ones, by a hash of the token; the token itself is never kept.

    Bad tokens are not remembered, so nobody can push the good ones out with garbage. Make a new reader when the
    keys change.
    """

    def __init__(self, keys: Sequence[bytes], *, remembered: int = REMEMBERED) -> None:
        self._keys = tuple(keys)
        self._limit = remembered
        self._known: OrderedDict[bytes, Handle] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def read(self, token: str) -> Handle | None:
        """The same as `parse_handle`, faster the second time."""
        if len(token) > MAX_TOKEN or not token.isascii():
            return None
        name = hashlib.sha256(token.encode()).digest()
        handle = self._known.get(name)
        if handle is not None:
            self._known.move_to_end(name)
            return handle
        handle = parse_handle(token, self._keys)
        if handle is not None:
            self._known[name] = handle
            if len(self._known) > self._limit:
                self._known.popitem(last=False)
        return handle


def _is_good(header_text: str) -> bool:
    """Whether a header that is not written like ours says the same."""
    header = _object(_decode(header_text))
    return header is not None and header.get("alg") == "HS256" and "crit" not in header


def _signed_by_any(signed: bytes, signature: bytes, keys: Sequence[bytes]) -> bool:
    good = False
    for key in keys:  # all of them, so that the time does not tell which one it was
        good |= hmac.compare_digest(hmac.digest(key, signed, "sha256"), signature)
    return good


def _handle(claims: Mapping[str, Any]) -> Handle | None:
    """The claims as a handle; None when one that we use has a type it must not have."""
    id, subject, oid, idp_id = (claims.get(name) or "" for name in ("jti", "sub", "oid", "idp_id"))
    if not all(map(_is_text, (id, subject, oid, idp_id))) or not id:
        return None
    server_version, record_version = (claims.get(f"databroker_{kind}_version") or 0 for kind in ("server", "record"))
    if not (_is_version(server_version) and _is_version(record_version)):
        return None
    issuer = claims.get("iss")
    return Handle(
        id=id,
        user_id=oid or subject,
        idp_id=idp_id,
        databroker_server_version=server_version,
        databroker_record_version=record_version,
        issuer=issuer if isinstance(issuer, str) and _is_text(issuer) else "",
        audience=_audience(claims.get("aud")),
        issued_at=_time(claims.get("iat")),
    )


def _is_version(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_VERSION


def _is_text(value: object) -> TypeGuard[str]:
    """Text that can be written down again: JSON can spell halves of characters, which nothing else can."""
    if not isinstance(value, str):
        return False
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def _time(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_TIME:
        return None
    return int(value)


def _audience(value: object) -> tuple[str, ...]:
    """One or several names, whichever way they were written; anything else says nothing (it is not checked)."""
    several = value if isinstance(value, list) else [value]
    return tuple(name for name in several if _is_text(name))


def _object(data: bytes | None) -> dict[str, Any] | None:
    if data is None:
        return None
    try:
        parsed = json.loads(data.decode())  # decoded here: json itself would also take UTF-16
    except (ValueError, RecursionError):  # not UTF-8, not JSON, digits without end; nested too deeply
        return None
    return parsed if isinstance(parsed, dict) else None


def _decode(text: str) -> bytes | None:
    """Base64url as JWS has it: its own alphabet, no padding."""
    if "=" in text or "+" in text or "/" in text:
        return None
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
