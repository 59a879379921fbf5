"""What must be true of the claims of ID tokens, userinfo and logout tokens (authenticate 6.1, 10). Pure.

Every check raises NotBelieved, whose text names the provider and the claim and never a value that came with it.
"""

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta
from typing import Any

from pomerium_agent.errors import NotBelieved
from pomerium_agent.idp.identity import Claims, LogoutToken

LEEWAY = timedelta(seconds=60)  # that the provider's clock may be ahead; none for `exp` (authenticate 10)
LOGOUT_TOKEN_AGE = timedelta(minutes=5)
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
MAX_TIME = 253_402_300_799.0  # the last second of the year 9999
MAX_SUBJECT = 1024
# These are about the token and not about the person: userinfo has no say in them.
TOKEN_CLAIMS = frozenset(
    {"iss", "sub", "aud", "exp", "iat", "nbf", "jti", "azp", "nonce", "at_hash", "c_hash", "auth_time", "sid", "tid"}
)
HASHES = {
    "256": hashlib.sha256,
    "384": hashlib.sha384,
    "512": hashlib.sha512,
    "DSA": hashlib.sha512,
    "519": hashlib.sha512,
}


def check_id_token(claims: Claims, *, provider: str, client_id: str, now: datetime) -> None:
    """Audience, authorized party, times and subject; issuer and nonce are checked by whoever knows them."""
    check_audience(claims, provider=provider, client_id=client_id)
    check_times(claims, provider=provider, now=now)
    if time_of(claims, "iat", provider=provider) is None:
        raise NotBelieved(f"{provider}: the ID token does not say when it was issued")
    subject_of(claims, provider=provider)
    if "events" in claims:
        raise NotBelieved(f"{provider}: a token about an event is no ID token")


def check_nonce(claims: Claims, nonce: str, *, provider: str) -> None:
    """The token answers the question of this very login (N-23)."""
    given = claims.get("nonce")
    if not nonce or not isinstance(given, str) or not hmac.compare_digest(given.encode(), nonce.encode()):
        raise NotBelieved(f"{provider}: the ID token was not made for this login (nonce); start the login again")


def check_access_token_hash(claims: Claims, algorithm: str, access_token: str, *, provider: str) -> None:
    """The access token is the one that came with the ID token, where that says so."""
    if "at_hash" not in claims:
        return
    given, hash = claims["at_hash"], HASHES.get(algorithm[-3:])
    if hash is None or not isinstance(given, str):
        raise NotBelieved(f"{provider}: the ID token's at_hash cannot be read")
    digest = hash(access_token.encode()).digest()
    expected = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=")
    if not hmac.compare_digest(given.rstrip("=").encode(), expected):
        raise NotBelieved(f"{provider}: the access token does not belong to the ID token (at_hash)")


def check_refreshed(claims: Claims, before: Claims, *, provider: str) -> None:
    """A refreshed ID token is about the same person and the same login (OIDC Core 12.2)."""
    check_same_subject(claims, before, provider=provider)
    if claims.get("nonce") is not None and before.get("nonce") is not None and claims["nonce"] != before["nonce"]:
        raise NotBelieved(f"{provider}: the refreshed ID token belongs to another login (nonce)")


def check_same_subject(claims: Claims, known: Claims, *, provider: str) -> None:
    """N-32."""
    if subject_of(claims, provider=provider) != subject_of(known, provider=provider):
        raise NotBelieved(f"{provider} answered about another person (sub)")


def read_logout_token(claims: Claims, *, provider: str, client_id: str, now: datetime) -> LogoutToken:
    """OpenID Connect Back-Channel Logout 2.6; the issuer is checked by whoever knows it."""
    check_audience(claims, provider=provider, client_id=client_id)
    check_times(claims, provider=provider, now=now, must_expire=False)
    issued_at = time_of(claims, "iat", provider=provider)
    if issued_at is None or issued_at < now - LOGOUT_TOKEN_AGE:
        raise NotBelieved(f"{provider}: the logout token is too old")
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
        raise NotBelieved(f"{provider}: the token is not about a logout (events)")
    if "nonce" in claims:
        raise NotBelieved(f"{provider}: a logout token must not carry a nonce")
    subject, sid, id = (_text(claims, name, provider) for name in ("sub", "sid", "jti"))
    if not (subject or sid) or not id:
        raise NotBelieved(f"{provider}: the logout token does not say whom it is about (sub, sid) or has no jti")
    return LogoutToken(issuer=str(claims.get("iss", "")), subject=subject, sid=sid, issued_at=issued_at, id=id)


def check_audience(claims: Claims, *, provider: str, client_id: str) -> None:
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if client_id not in audiences:
        raise NotBelieved(f"{provider}: the token is not meant for this client (aud); check the client id")
    party = claims.get("azp")
    if (party is not None or len(audiences) > 1) and party != client_id:
        raise NotBelieved(f"{provider}: the token was issued to another client (azp)")


def check_times(claims: Claims, *, provider: str, now: datetime, must_expire: bool = True) -> None:
    expires = time_of(claims, "exp", provider=provider)
    if expires is None and must_expire:
        raise NotBelieved(f"{provider}: the token never expires")
    if expires is not None and expires <= now:
        raise NotBelieved(f"{provider}: the token has expired; compare the clocks of provider and agent")
    for name in ("iat", "nbf"):
        begins = time_of(claims, name, provider=provider)
        if begins is not None and begins > now + LEEWAY:
            raise NotBelieved(f"{provider}: the token is from the future ({name}); compare the clocks")


def subject_of(claims: Claims, *, provider: str) -> str:
    subject = _text(claims, "sub", provider)
    if not subject:
        raise NotBelieved(f"{provider} does not say whom it speaks of (sub)")
    return subject


def tidy(answer: Claims) -> dict[str, Any]:
    """What is said of a person, in the usual types and under the usual names (authenticate 6.1)."""
    claims = dict(answer)
    for name in [name for name in claims if name.endswith("_verified")]:
        if isinstance(claims[name], str) and claims[name].lower() in ("true", "false"):
            claims[name] = claims[name].lower() == "true"
    mail = claims.get("mail")
    if not claims.get("email") and isinstance(mail, str) and "@" in mail:
        claims["email"] = mail
    return claims


def merge(id_token: Claims, userinfo: Claims) -> dict[str, Any]:
    """ID-token claims first, userinfo over them, key by key (authenticate 5.2).

    That an address is verified is not carried over to another address.
    """
    below, above = tidy(id_token), tidy(userinfo)
    if "email" in above and above["email"] != below.get("email"):
        below.pop("email_verified", None)
    return {**below, **{name: value for name, value in above.items() if name not in TOKEN_CLAIMS}}


def time_of(claims: Claims, name: str, *, provider: str) -> datetime | None:
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TIME:
        raise NotBelieved(f"{provider}: the {name} of the token is no time")
    return datetime.fromtimestamp(value, UTC)


def _text(claims: Claims, name: str, provider: str) -> str:
    value = claims.get(name, "")
    if not isinstance(value, str) or len(value) > MAX_SUBJECT or not value.isprintable():
        raise NotBelieved(f"{provider}: the {name} of the token is no text that can be used")
    return value
