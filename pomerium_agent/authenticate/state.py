"""What a login carries through the provider and the browser, so that only we can have made it (authenticate 5.2).

`state` travels by way of the provider; the proof of the browser is in two cookies: one for the browser, one for the
login. Both formats are read by this cluster alone.
"""

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pomerium_agent.errors import HandoffExpired, HandoffRejected, HandoffStrayed
from pomerium_agent.handoff.box import close_box, decode, encode_raw, open_box
from pomerium_agent.handoff.keys import purpose_key
from pomerium_agent.idp.pkce import code_challenge_of, new_code_verifier

SECONDS = 300  # either way; a login that takes longer begins again
SECRET_CHARACTERS = 43  # of 32 bytes in base64
MAX_STATE = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A login under way, as the provider sends it back."""

    browser: str  # hash of the cookie of the browser that began it
    began: int  # seconds since the epoch
    idp_id: str
    return_to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What only the browser has, locked, and only we can read."""

    verifier: str
    nonce: str
    began: int

    @property
    def challenge(self) -> str:
        return code_challenge_of(self.verifier)


def new_browser_secret() -> str:
    return secrets.token_urlsafe(32)


def is_browser_secret(value: str) -> bool:
    return len(value) == SECRET_CHARACTERS and value.isascii() and value.replace("-", "").replace("_", "").isalnum()


def browser_of(cookie: str) -> str:
    return encode_raw(hashlib.sha256(cookie.encode(errors="replace")).digest())


def new_secrets(now: datetime) -> Secrets:
    return Secrets(verifier=new_code_verifier(), nonce=secrets.token_urlsafe(24), began=int(now.timestamp()))


def seal_state(state: State, shared_secret: bytes) -> str:
    return _seal([state.browser, state.began, state.idp_id, state.return_to], shared_secret, "login-state", "")


def open_state(text: str, shared_secret: bytes) -> State:
    """Raises HandoffRejected for what we did not make."""
    if len(text) > MAX_STATE:
        raise HandoffRejected("the state is too long")
    browser, began, idp_id, return_to = _open(text, shared_secret, "login-state", "")
    return State(browser=browser, began=began, idp_id=idp_id, return_to=return_to)


def check_browser(state: State, cookies: list[str]) -> None:
    """Raises HandoffStrayed unless one of the cookies is the one that the login began with."""
    found = [hmac.compare_digest(browser_of(cookie), state.browser) for cookie in cookies]
    if not any(found):
        raise HandoffStrayed("this browser did not begin the login, or did not keep the cookie of its beginning")


def check_age(began: int, now: datetime) -> None:
    """Raises HandoffExpired."""
    if abs(now.timestamp() - began) > SECONDS:
        raise HandoffExpired("the login took longer than five minutes")


def digest_of(state: str) -> str:
    """Names the cookie of one login."""
    return base64.b32encode(hashlib.sha256(state.encode()).digest()[:10]).decode().lower()


def seal_secrets(kept: Secrets, shared_secret: bytes, cookie_name: str) -> str:
    return _seal([kept.verifier, kept.nonce, kept.began], shared_secret, "login-pkce", cookie_name)


def open_secrets(cookies: list[str], shared_secret: bytes, cookie_name: str) -> Secrets:
    """Of the first cookie that is ours. Raises HandoffStrayed when there is none."""
    for cookie in cookies:
        try:
            verifier, nonce, began = _open(cookie, shared_secret, "login-pkce", cookie_name)
        except HandoffRejected:
            continue
        return Secrets(verifier=verifier, nonce=nonce, began=began)
    raise HandoffStrayed("the cookie of this login is not there: it was used already, or the browser did not keep it")


def _seal(values: list[str | int], shared_secret: bytes, purpose: str, bound_to: str) -> str:
    text = json.dumps(values, separators=(",", ":")).encode()
    return encode_raw(close_box(purpose_key(shared_secret, purpose), text, bound_to=bound_to.encode()))


def _open(text: str, shared_secret: bytes, purpose: str, bound_to: str) -> list[Any]:
    plain = open_box(purpose_key(shared_secret, purpose), decode(text), bound_to=bound_to.encode())
    values: list[Any] = json.loads(plain)  # ours: nobody else has the key
    return values
