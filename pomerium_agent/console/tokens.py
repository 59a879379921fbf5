"""Cluster tokens: how they are made, and the only form in which the console keeps them."""

import hashlib
import secrets

from pomerium_agent.settings import Secret

# A fixed beginning lets secret scanners find a token that was pasted where it does not belong.
PREFIX = "pct_"


def new_token() -> Secret:
    """A cluster token: 256 random bits as one word."""
    return Secret(PREFIX + secrets.token_urlsafe(32))


def token_hash(token: str) -> bytes:
    """What is stored of a token. It holds 256 random bits, so a plain hash cannot be turned around."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def fingerprint(hashed: bytes) -> str:
    """By what people tell tokens apart; replicas call them the same."""
    return hashed[:4].hex()
