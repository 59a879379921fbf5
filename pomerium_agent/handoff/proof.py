"""How one replica shows another that it is of the same cluster: a short-lived MAC over what it asks (N-48)."""

import hashlib
import hmac
from datetime import datetime

from pomerium_agent.errors import HandoffExpired, HandoffRejected
from pomerium_agent.handoff.box import encode_raw
from pomerium_agent.handoff.keys import purpose_key

HEADER = "x-pomerium-agent-proof"
SECONDS = 60
_PURPOSE = "cluster-proof"


def make_proof(shared_secret: bytes, path: str, body: bytes, now: datetime) -> str:
    """The value of the header for a request to `path` with that body."""
    time = int(now.timestamp())
    return f"v1.{time}.{_mac(shared_secret, path, body, time)}"


def check_proof(shared_secret: bytes, proof: str, path: str, body: bytes, now: datetime) -> None:
    """Raises HandoffRejected when it is not from this cluster, HandoffExpired when it is not from this minute."""
    version, _, rest = proof.partition(".")
    text, _, mac = rest.partition(".")
    if version != "v1" or not (text.isascii() and text.isdigit()) or len(text) > 12:
        raise HandoffRejected(f"{HEADER} has another form")
    time = int(text)
    if not hmac.compare_digest(_mac(shared_secret, path, body, time).encode(), mac.encode(errors="replace")):
        raise HandoffRejected(f"{HEADER} was not made by this cluster, or for another request")
    if abs(now.timestamp() - time) > SECONDS:
        raise HandoffExpired(f"{HEADER} is not of this minute")


def _mac(shared_secret: bytes, path: str, body: bytes, time: int) -> str:
    message = b"%d\0%s\0%s" % (time, path.encode(), hashlib.sha256(body).digest())
    return encode_raw(hmac.digest(purpose_key(shared_secret, _PURPOSE), message, hashlib.sha256))
