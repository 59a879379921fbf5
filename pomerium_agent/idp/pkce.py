"""Proof Key for Code Exchange (RFC 7636), by S256 only."""

import base64
import hashlib
import secrets

from pomerium_agent.settings import Secret


def new_code_verifier() -> Secret:
    """A secret of one login, for the browser's cookie and later for `exchange`."""
    return Secret(secrets.token_urlsafe(48))


def code_challenge_of(verifier: str) -> str:
    """What the authorization request says of it."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
