"""What a cluster is told of a person: the identity profile of a sealed answer, and claims (authenticate 4.3). Pure."""

import base64
import json
from datetime import datetime
from typing import Any

from pomerium_agent.idp import Identity

# About the token that the console got, and no business of a cluster: it was meant for us.
OURS = frozenset({"aud", "exp", "iat", "nbf", "jti", "azp", "nonce", "at_hash", "c_hash", "s_hash", "sid"})
NO_EXPIRY = "0001-01-01T00:00:00Z"


def claims_for_cluster(identity: Identity) -> dict[str, Any]:
    """Everything that is said of the person."""
    return {name: value for name, value in identity.claims.items() if name not in OURS}


def identity_profile(identity: Identity, idp_id: str, *, with_tokens: bool, now: datetime) -> str:
    """Protobuf-JSON, with these fields and no other. A refresh token is never in it (N-47)."""
    profile: dict[str, Any] = {"providerId": idp_id, "claims": claims_for_cluster(identity)}
    if with_tokens:
        if identity.id_token:
            profile["idToken"] = _base64(str(identity.id_token))
        profile["oauthToken"] = _base64(json.dumps(_oauth_token(identity, now)))
    return json.dumps(profile, ensure_ascii=False, separators=(",", ":"))


def _oauth_token(identity: Identity, now: datetime) -> dict[str, object]:
    token = identity.token
    found: dict[str, object] = {"access_token": str(token.access_token), "token_type": token.token_type}
    if token.expires_at is None:
        return found | {"expiry": NO_EXPIRY}
    seconds = max(int((token.expires_at - now).total_seconds()), 0)
    return found | {"expiry": token.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"), "expires_in": seconds}


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
