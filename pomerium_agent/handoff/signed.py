"""Signed URLs: good for five minutes, and only holders of the shared key can have made them (authenticate 3.3)."""

import base64
import hmac
from collections.abc import Iterable
from datetime import datetime
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.hashes import SHA512_256
from cryptography.hazmat.primitives.hmac import HMAC

from pomerium_agent.errors import HandoffExpired, HandoffRejected
from pomerium_agent.handoff.query import Pairs, as_pairs, encode_query, parse_query

SIGNED_SECONDS = 300
SKEW_SECONDS = 60
ISSUED, EXPIRY, SIGNATURE = b"pomerium_issued", b"pomerium_expiry", b"pomerium_signature"
MAX_TIME = 2**53


def signed_url(base: str, parameters: Iterable[tuple[str, str]], key: bytes, now: datetime) -> str:
    """`base`, which has no query, with parameters, good for five minutes, and nobody can change it."""
    return sign_pairs(base, as_pairs(parameters), key, now)


def sign_pairs(base: str, pairs: Pairs, key: bytes, now: datetime) -> str:
    """The same, with parameters that need not be text."""
    issued = int(now.timestamp())
    expiry = issued + SIGNED_SECONDS
    pairs = [*pairs, (ISSUED, b"%d" % issued), (EXPIRY, b"%d" % expiry)]
    message = f"{base}?{encode_query(pairs)}{issued} {expiry}"
    pairs.append((SIGNATURE, url_signature(message, key).encode()))
    return f"{base}?{encode_query(pairs)}"


def url_signature(message: str, key: bytes) -> str:
    """HMAC with SHA-512/256, as base64url with padding."""
    mac = HMAC(key, SHA512_256())  # not of hashlib, where the machine's OpenSSL may lack it
    mac.update(message.encode())
    return base64.urlsafe_b64encode(mac.finalize()).decode()


def is_signed(query: str) -> bool:
    """Whether the query claims to be signed."""
    return any(name == SIGNATURE for name, _ in parse_query(query))


def verify_signed_url(url: str, key: bytes, now: datetime) -> None:
    """Check `url`, of which scheme and host are what they should have been when it was signed (N-2 to N-5).

    The caller puts `https` and the Host header as received in front of path and query. Raises HandoffExpired, or
    HandoffRejected when it is not ours or was changed.
    """
    base, _, query = url.partition("?")
    pairs = parse_query(query)
    issued, expiry = _number(pairs, ISSUED), _number(pairs, EXPIRY)
    signature = _only(pairs, SIGNATURE)
    unsigned = encode_query(pair for pair in pairs if pair[0] != SIGNATURE)
    message = f"{base}?{unsigned}{issued} {expiry}"
    if not hmac.compare_digest(url_signature(message, key).encode(), signature):
        raise HandoffRejected("the link was changed, or was not made by this cluster")
    check_times(issued, expiry, now)


def check_times(issued: float, expiry: float, now: datetime) -> None:
    """Both in seconds. Raises HandoffExpired outside of them, with a minute for clocks that differ (N-4)."""
    time = now.timestamp()
    if time - SKEW_SECONDS > expiry:
        raise HandoffExpired("the link has expired")
    if time + SKEW_SECONDS < issued:
        raise HandoffExpired("the link is from the future, so the clocks of two machines differ")


def origin_of(url: str) -> str:
    """`https://host[:port]` of an absolute URL. Raises HandoffRejected when there is none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise HandoffRejected("a parameter is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise HandoffRejected("a parameter is not an absolute URL")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    usual = 443 if parts.scheme == "https" else 80
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, usual) else "")


def _only(pairs: Pairs, name: bytes) -> bytes:
    found = [value for key, value in pairs if key == name]
    if len(found) != 1:
        raise HandoffRejected(f"{name.decode()} is missing" if not found else f"{name.decode()} is there twice")
    return found[0]


def _number(pairs: Pairs, name: bytes) -> int:
    text = _only(pairs, name)
    if not text.isdigit() or len(text) > 16 or int(text) > MAX_TIME:
        raise HandoffRejected(f"{name.decode()} is no time")
    return int(text)
