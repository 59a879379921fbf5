"""What ties a login to the browser that began it (G-3): a cookie, and its echo in the URL to which the login returns.

The callback URL is sealed or signed by whoever logs people in, together with its query, so the echo comes back as it
was sent; a callback that was begun by somebody else, in another browser, brings an echo without its cookie.
"""

import hashlib
import hmac
import secrets
from functools import lru_cache

from pomerium_agent.handoff.box import encode_raw
from pomerium_agent.handoff.keys import purpose_key

PARAMETER = "pomerium_login_nonce"
CALLBACK_PATH = "/.pomerium/callback/"
COOKIE_BYTES = 32
COOKIE_LENGTH = 43  # characters of 32 bytes in base64
COOKIE_SECONDS = 900


def cookie_name(session_cookie: str) -> str:
    """The `__Host-` prefix: browsers take it only from the host itself, over TLS, and send it to no other."""
    return f"__Host-{session_cookie}_login"


def new_cookie() -> str:
    """A value for a browser that has none yet. Parallel tabs share one."""
    return encode_raw(secrets.token_bytes(COOKIE_BYTES))


def is_cookie(value: str) -> bool:
    """Whether a cookie's value may be one of ours."""
    return len(value) == COOKIE_LENGTH and value.isascii() and value.replace("-", "").replace("_", "").isalnum()


def set_cookie(session_cookie: str, value: str) -> str:
    """The Set-Cookie header. Lax, since the browser comes back from another site."""
    return f"{cookie_name(session_cookie)}={value}; Path=/; Max-Age={COOKIE_SECONDS}; Secure; HttpOnly; SameSite=Lax"


def echo_of(shared_secret: bytes, cookie: str, host: str) -> str:
    """What the callback URL carries. `host` is the Host header; a port counts, unless it is the usual one."""
    key = _key(shared_secret)
    return encode_raw(hmac.digest(key, f"{cookie}\0{host.lower().removesuffix(':443')}".encode(), hashlib.sha256))


@lru_cache(maxsize=4)
def _key(shared_secret: bytes) -> bytes:
    return purpose_key(shared_secret, "login-nonce")


def matches(shared_secret: bytes, cookie: str, host: str, echo: str) -> bool:
    """Whether this browser began the login that returns with `echo`; in constant time (N-5)."""
    if not is_cookie(cookie):
        return False
    return hmac.compare_digest(echo_of(shared_secret, cookie, host).encode(), echo.encode(errors="replace"))


def callback_url(shared_secret: bytes, cookie: str, host: str) -> str:
    """Where a login that this browser begins on `host` has to return to."""
    return f"https://{host}{CALLBACK_PATH}?{PARAMETER}={echo_of(shared_secret, cookie, host)}"
