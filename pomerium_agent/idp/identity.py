"""What a login brings: who somebody is, and the tokens that prove it and keep it fresh."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pomerium_agent.errors import NotBelieved
from pomerium_agent.idp.signed import MAX_TOKEN
from pomerium_agent.settings import Secret

NO_SECRET = Secret("")
MAX_LIFETIME = timedelta(days=3650)
USER_ID_CLAIMS = ("oid", "sub", "user")  # the first one with a text names the user (N-17)

Claims = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """OAuth tokens. `expires_at`: None when the provider does not say; an empty refresh token: there is none."""

    access_token: Secret
    token_type: str = "Bearer"  # noqa: S105  # a kind of token
    expires_at: datetime | None = None
    refresh_token: Secret = NO_SECRET


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who somebody is by the word of a provider.

    `claims` are those of the ID token, and over them those of userinfo (authenticate 5.2). After a refresh the ID token
    may be empty and claims may be missing: the provider said nothing new, and what was known stays.
    """

    claims: Claims = field(repr=False)
    id_token: Secret = NO_SECRET
    id_token_claims: Claims = field(default_factory=dict, repr=False)  # as verified; empty without an ID token
    token: Token

    @property
    def user_id(self) -> str:
        """Empty when no claim names the user."""
        named = (self.claims.get(name) for name in USER_ID_CLAIMS)
        return next((value for value in named if isinstance(value, str) and value), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutToken:
    """A provider's word that somebody is logged out there; `subject` or `sid` is empty when it is not given.

    Whoever acts on it remembers `id` until `issued_at` is too old to be accepted, so that nobody replays it.
    """

    issuer: str
    subject: str
    sid: str
    issued_at: datetime
    id: str


def read_token(answer: Claims, *, provider: str, now: datetime, refresh_token: Secret = NO_SECRET) -> Token:
    """The tokens in a token endpoint's answer; `refresh_token` is kept when no other comes. Raises NotBelieved."""
    access = answer.get("access_token")
    if not isinstance(access, str) or not usable(access):
        raise NotBelieved(f"{provider} answered without a usable access token")
    kind = answer.get("token_type", "Bearer")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise NotBelieved(f"{provider} answered with a token that is no bearer token")
    fresh = answer.get("refresh_token")
    if isinstance(fresh, str) and fresh and fresh.isascii() and fresh.isprintable():
        refresh_token = Secret(fresh)
    return Token(
        access_token=Secret(access), expires_at=_expiry(answer.get("expires_in"), now), refresh_token=refresh_token
    )


def usable(token: str) -> bool:
    """Whether a token can be put into a header."""
    return 0 < len(token) <= MAX_TOKEN and token.isascii() and token.isprintable() and " " not in token


def _expiry(seconds: object, now: datetime) -> datetime | None:
    """Some providers send the number as a text; zero stands for "not said"."""
    if isinstance(seconds, str) and seconds.isascii() and seconds.isdigit() and len(seconds) < 12:
        seconds = int(seconds)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        return None
    return now + timedelta(seconds=min(seconds, MAX_LIFETIME.total_seconds()))
