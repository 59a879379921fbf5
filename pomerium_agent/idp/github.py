"""GitHub: OAuth 2 and its API, since it knows no OpenID Connect for people (authenticate 6.2)."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp

from pomerium_agent.errors import GrantEnded, NotBelieved, ProviderRefused, ProviderUnavailable, Unsupported
from pomerium_agent.idp.fetch import Answer, ask
from pomerium_agent.idp.identity import Claims, Identity, LogoutToken, Token, read_token, usable
from pomerium_agent.idp.kinds import Kind, client_id_of, issuer_of, params_of, scopes_of
from pomerium_agent.idp.oidc import OURS, with_query
from pomerium_agent.idp.settings import ProviderSettings
from pomerium_agent.idp.token_endpoint import Client, basic
from pomerium_agent.runtime.clock import Clock

REFRESHED_FOR = timedelta(minutes=60)
NEVER = datetime.fromtimestamp(253_370_793_661, UTC)  # in the year 9999: GitHub's tokens live until they are revoked
PROFILE = {"login": "user", "name": "name", "avatar_url": "picture", "html_url": "profile", "blog": "website"}


class GitHub:
    """Implements Provider."""

    def __init__(self, settings: ProviderSettings, kind: Kind, http: aiohttp.ClientSession, clock: Clock) -> None:
        """Raises SettingsError, which names the setting."""
        self.settings = settings
        self.kind = kind
        self.issuer = issuer_of(kind, settings).rstrip("/")
        self.client_id = client_id_of(kind, settings)
        self.name = f"{kind.name} ({self.issuer})"
        self._api = api_of(self.issuer)
        self._http = http
        self._clock = clock
        self._client = Client(http, provider=self.name, id=self.client_id, secret=settings.client_secret)

    async def uses_pkce(self) -> bool:
        return False

    async def authorization_url(self, *, redirect_uri: str, state: str, nonce: str, code_challenge: str = "") -> str:
        """Without a nonce: there is no token that could carry it back."""
        further = {name: value for name, value in params_of(self.kind, self.settings).items() if name not in OURS}
        asked = {
            "client_id": self.client_id,
            "redirect_uri": redirect_uri,
            "response_type": "code",
            "scope": " ".join(scopes_of(self.kind, self.settings)),
            "state": state,
            **further,
        }
        return with_query(f"{self.issuer}/login/oauth/authorize", asked)

    async def exchange(self, code: str, *, redirect_uri: str, nonce: str, code_verifier: str = "") -> Identity:
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
        answer = await self._client.post(f"{self.issuer}/login/oauth/access_token", form)
        token = read_token(answer, provider=self.name, now=self._clock.now())
        return Identity(claims=await self.userinfo(token.access_token), token=replace(token, expires_at=NEVER))

    async def refresh(self, token: Token, id_token_claims: Claims) -> Identity:
        """Asks nobody; whether the token still works is seen when userinfo is asked for."""
        return Identity(claims={}, token=replace(token, expires_at=self._clock.now() + REFRESHED_FOR))

    async def userinfo(self, access_token: str) -> Claims:
        user = await self._get("/user", access_token)
        node, number = user.get("node_id"), user.get("id")
        if not (isinstance(node, str) and node) and (isinstance(number, bool) or not isinstance(number, int)):
            raise NotBelieved(f"{self.name} does not say whom it speaks of (node_id, id)")
        now = int(self._clock.now().timestamp())
        claims: dict[str, Any] = {"sub": node if isinstance(node, str) and node else str(number)}
        claims |= {ours: user[theirs] for theirs, ours in PROFILE.items() if isinstance(user.get(theirs), str)}
        if "user" in claims:
            claims["preferred_username"] = claims["user"]
        claims |= await self._email(access_token)
        return claims | {"iat": now, "nbf": now, "exp": now + int(REFRESHED_FOR.total_seconds())}

    async def revoke(self, token: Token) -> None:
        url = f"{self._api}/applications/{quote(self.client_id, safe='')}/grant"
        headers = {
            "Accept": "application/vnd.github+json",
            "Authorization": basic(self.client_id, self.settings.client_secret),
            "Content-Type": "application/json",
        }
        body = json.dumps({"access_token": str(token.access_token)}).encode()
        answer = await ask(self._http, url, method="DELETE", headers=headers, body=body)
        if answer.status not in (200, 204, 404, 422):  # the last two: it is gone already
            raise ProviderRefused(f"{self.name} answered {answer.status}; check the client id and secret")

    async def sign_out_url(self, *, id_token: str, redirect_uri: str = "") -> str | None:
        return None

    async def check_callback_issuer(self, issuer: str) -> None:
        if issuer and urlsplit(issuer).hostname != urlsplit(self.issuer).hostname:
            raise NotBelieved(f"{self.name} did not send this callback (iss); start the login again")

    async def verify_id_token(self, raw: str, *, nonce: str | None = None) -> Claims:
        raise Unsupported(f"{self.name} has no ID tokens")

    async def verify_access_token(self, raw: str) -> Claims:
        """Its tokens name no audience, so none of them is meant for one that is asked for."""
        if self.settings.access_token_audiences is not None:
            raise NotBelieved(f"{self.name}: the access token is not meant for an allowed audience (aud)")
        return await self.userinfo(raw)

    async def verify_logout_token(self, raw: str) -> LogoutToken:
        raise Unsupported(f"{self.name} has no logout tokens")

    async def _email(self, access_token: str) -> dict[str, Any]:
        """The primary address, if it is verified; nothing when the scopes do not reach that far."""
        answer = await self._ask("/user/emails", access_token)
        if answer.status in (403, 404):
            return {}
        if answer.status != 200:
            raise ProviderRefused(f"{self.name} answered {answer.status} for the email addresses; check the scopes")
        try:
            listed = json.loads(answer.body)
        except (ValueError, RecursionError):
            listed = None
        if not isinstance(listed, list):
            raise ProviderUnavailable(f"{self.name} did not answer with a list of email addresses")
        for entry in listed:
            if isinstance(entry, dict) and entry.get("primary") is True and entry.get("verified") is True:
                email = entry.get("email")
                if isinstance(email, str) and email.isprintable():
                    return {"email": email, "email_verified": True}
        return {}

    async def _get(self, path: str, access_token: str) -> dict[str, Any]:
        answer = await self._ask(path, access_token)
        if answer.status != 200:
            raise ProviderRefused(f"{self.name} answered {answer.status} at {path}; check the scopes")
        return answer.json()

    async def _ask(self, path: str, access_token: str) -> Answer:
        if not usable(access_token):
            raise GrantEnded(f"{self.name} never gave such an access token")
        headers = {"Accept": "application/vnd.github+json", "Authorization": f"token {access_token!s}"}
        answer = await ask(self._http, f"{self._api}{path}", headers=headers)
        if answer.status == 401:
            raise GrantEnded(f"{self.name} does not accept the access token any more; log in again")
        if answer.status == 403 and answer.rate_limited:
            raise ProviderUnavailable(f"{self.name} answers no more questions for now (rate limit)")
        return answer


def api_of(issuer: str) -> str:
    """Where the API is: of GitHub itself, of an enterprise's tenant there, or of an enterprise's own server."""
    parts = urlsplit(issuer)
    if parts.netloc == "github.com" or parts.netloc.endswith(".ghe.com"):
        return f"https://api.{parts.netloc}"
    return f"{issuer}/api/v3"
