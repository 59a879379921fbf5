"""The token that services of a cluster show each other: a JWT that says nothing but when it ends (databroker 2).

Who can make one knows the shared secret, and may do everything that the databroker does.
"""

import hmac
import json
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import datetime, timedelta
from typing import Any

from pomerium_agent.errors import AgentError

LIFETIME = timedelta(hours=1)
HEADER = b'{"alg":"HS256","typ":"JWT"}'
DIGESTS = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
LONGEST = 4096  # characters of a token that is looked at
ALPHABET = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


class InvalidToken(AgentError):
    """A token is not one of this cluster, or is over; the text never quotes it."""


def make_token(key: bytes, now: datetime) -> str:
    """A token that is good for an hour; callers make one for every call (D-3)."""
    return sign(key, int((now + LIFETIME).timestamp()))


def sign(key: bytes, expires: int) -> str:
    """The token that ends at `expires`, in seconds since 1970."""
    signed = f"{_encode(HEADER)}.{_encode(json.dumps({'exp': expires}, separators=(',', ':')).encode())}"
    return f"{signed}.{_encode(hmac.digest(key, signed.encode(), 'sha256'))}"


def check_token(key: bytes, token: str, now: datetime) -> None:
    """Raise InvalidToken unless `token` was made with `key`, says `exp` and nothing else, and is not over (D-2)."""
    if len(token) > LONGEST or token.count(".") != 2:
        raise InvalidToken("it is no JWT")
    signed, _, signature = token.rpartition(".")
    head, _, body = signed.partition(".")
    header = _object(head)
    digest = DIGESTS.get(str(header.get("alg")))
    if digest is None or "crit" in header:
        raise InvalidToken("it is signed in a way that is not used here")
    if not hmac.compare_digest(hmac.digest(key, signed.encode(errors="replace"), digest), _decode(signature)):
        raise InvalidToken("it is not signed with the shared secret of this cluster")
    claims = _object(body)
    expires = claims.get("exp")
    if claims.keys() != {"exp"} or isinstance(expires, bool) or not isinstance(expires, int | float):
        raise InvalidToken("it must say exp, as a number, and nothing else")
    if (isinstance(expires, float) and not math.isfinite(expires)) or now.timestamp() > expires:
        raise InvalidToken("it has expired; do the clocks of the two machines agree?")


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(_decode(text))
    except (ValueError, RecursionError):
        raise InvalidToken("it is no JWT") from None
    if not isinstance(found, dict):
        raise InvalidToken("it is no JWT")
    return found


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    if not ALPHABET.issuperset(text) or len(text) % 4 == 1:
        raise InvalidToken("it is no JWT")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
