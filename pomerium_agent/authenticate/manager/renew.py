"""Between records and providers: what a provider is asked with, and what its answer makes of a record. Pure."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from pomerium_agent.idp.identity import Claims, Identity, Token
from pomerium_agent.idp.signed import read_unverified
from pomerium_agent.pb.pomerium import session_pb2, user_pb2
from pomerium_agent.sessions.claims import flatten
from pomerium_agent.sessions.writing import set_claims, time_or_year_one
from pomerium_agent.settings import Secret

NOT_MERGED = frozenset({"iss", "sub", "exp", "iat"})  # authenticate 7.3
SESSION_FIELDS = ("oauth_token", "id_token", "claims")
USER_FIELDS = ("name", "email", "claims")


def token_of(session: session_pb2.Session) -> Token:
    """The tokens of a session, as its provider takes them."""
    token = session.oauth_token
    expires = token.expires_at.ToDatetime(UTC) if token.expires_at.seconds > 0 else None
    return Token(
        access_token=Secret(token.access_token),
        token_type=token.token_type or "Bearer",
        expires_at=expires,
        refresh_token=Secret(token.refresh_token),
    )


def known_claims(session: session_pb2.Session) -> dict[str, Any]:
    """What the provider said of this login: whoever it speaks of now must be the same person (N-32).

    The user id stands in for a subject that was not kept; where it is another, nothing is believed.
    """
    try:
        _, claims = read_unverified(session.id_token.raw)
    except ValueError:
        claims = {}
    said = session.claims["sub"].values if "sub" in session.claims else ()
    subject = next((value.string_value for value in said), "")
    return {**claims, "sub": session.id_token.subject or subject or session.user_id}


def renewed(session: session_pb2.Session, identity: Identity, *, with_id_token: bool) -> session_pb2.Session:
    """The session after a refresh, in the fields `SESSION_FIELDS`; where nothing new was said, what was known stays.

    An ID token that was not renewed loses its time of expiry, which would else ask for a refresh again and again. The
    token itself stays, for the provider's sign-out asks for it (the reference drops it: authenticate 6.1).
    """
    fresh = session_pb2.Session(id=session.id)
    fresh.CopyFrom(session)
    token, oauth = identity.token, fresh.oauth_token
    oauth.access_token, oauth.token_type = str(token.access_token), token.token_type
    oauth.refresh_token = str(token.refresh_token)
    oauth.expires_at.CopyFrom(time_or_year_one(token.expires_at))
    if identity.id_token:
        _put_id_token(fresh.id_token, identity)
    elif with_id_token and fresh.HasField("id_token"):
        fresh.id_token.ClearField("expires_at")
    _merge(fresh.claims, identity.claims)
    return fresh


def informed(user: user_pb2.User, claims: Claims) -> user_pb2.User:
    """The user, with what a provider says of them now."""
    fresh = user_pb2.User()
    fresh.CopyFrom(user)
    for name in ("name", "email"):
        said = claims.get(name)
        if isinstance(said, str) and said and said.isprintable():
            setattr(fresh, name, said)
    _merge(fresh.claims, claims)
    return fresh


def _put_id_token(into: session_pb2.IDToken, identity: Identity) -> None:
    claims = identity.id_token_claims
    into.Clear()
    into.raw = str(identity.id_token)
    into.issuer, into.subject = str(claims.get("iss", "")), str(claims.get("sub", ""))
    for field, name in ((into.expires_at, "exp"), (into.issued_at, "iat")):
        if name in claims:
            field.FromDatetime(datetime.fromtimestamp(claims[name], UTC))


def _merge(into: Any, claims: Mapping[str, Any]) -> None:
    """Claims over those that are there; what no record can hold is left out, since the tokens must be kept."""
    for key, values in flatten(claims).items():
        if key not in NOT_MERGED:
            with suppress(ValueError):
                set_claims(into, {key: values})
