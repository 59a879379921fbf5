"""The identity profile that the hosted service hands over (authenticate 4.3): read to the letter, or refused (N-18)."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf import json_format

from pomerium_agent.errors import HandoffRejected
from pomerium_agent.idp.identity import NO_SECRET, Identity, Token
from pomerium_agent.pb.pomerium.identity_pb2 import Profile
from pomerium_agent.settings import Secret

NO_TOKEN = Token(access_token=NO_SECRET)


@dataclass(frozen=True, slots=True)
class ProfileRead:
    """Who somebody is, by the word of the service, and which provider it was asked for."""

    provider_id: str
    identity: Identity


def read_profile(text: str) -> ProfileRead:
    """Raises HandoffRejected; nothing of the profile is in its text. Pure."""
    profile = Profile()
    try:
        _check_base64(json.loads(text))
        json_format.Parse(text, profile, ignore_unknown_fields=False)
        claims: dict[str, Any] = json_format.MessageToDict(profile.claims)
        token = _token(profile.oauth_token)
        id_token = profile.id_token.decode("ascii")
    except (json_format.Error, ValueError, OverflowError, TypeError, RecursionError):
        raise HandoffRejected("the identity profile in it cannot be read") from None
    return ProfileRead(profile.provider_id, Identity(claims=claims, id_token=Secret(id_token), token=token))


def _check_base64(said: object) -> None:
    """The protobuf library skips what is no base64; here it is an error."""
    if not isinstance(said, dict):
        raise ValueError("not an object")
    for name in ("idToken", "id_token", "oauthToken", "oauth_token"):
        value = said.get(name)
        if isinstance(value, str):
            padded = value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4)
            base64.b64decode(padded.replace("-", "+").replace("_", "/"), validate=True)


def _token(data: bytes) -> Token:
    """As Go writes it; a year before 1971 means that the provider did not say."""
    if not data:
        return NO_TOKEN
    said = json.loads(data.decode())
    if not isinstance(said, dict):
        raise ValueError("not an object")
    return Token(
        access_token=Secret(_text(said, "access_token")),
        token_type=_text(said, "token_type") or "Bearer",
        refresh_token=Secret(_text(said, "refresh_token")),
        expires_at=_expiry(_text(said, "expiry")),
    )


def _expiry(text: str) -> datetime | None:
    if not text:
        return None
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        raise ValueError("a time without a zone")
    return when.astimezone(UTC) if when.year > 1970 else None


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name) or ""
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    return value
