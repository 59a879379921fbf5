"""A provider of ours on loopback, and our client of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import aiohttp

from pomerium_agent.idp import Identity, Provider, Providers, ProviderSettings
from pomerium_agent.settings import Secret
from tests.fakes.clock import ManualClock
from tests.fakes.hostile_provider import HostileProvider

REDIRECT = "https://auth.example.com/oauth2/callback"
AUTHENTICATE = "https://auth.example.com"
CLIENT_KEY = bytes(range(32))


class Scene:
    """What a test of a provider needs."""

    def __init__(self, *, type: str, path: str, settings: dict[str, Any]) -> None:
        self.clock = ManualClock()
        self.idp = HostileProvider(self.clock, path=path)
        self.http: aiohttp.ClientSession
        self.providers: Providers
        self.settings: ProviderSettings
        self._type = type
        self._changes = settings

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Scene"]:
        async with self.idp.serve(), aiohttp.ClientSession() as self.http:
            usual: dict[str, Any] = {
                "type": self._type,
                "url": self.idp.issuer,
                "client_id": self.idp.client_id,
                "client_secret": Secret(self.idp.secret),
                "authenticate_url": AUTHENTICATE,
            }
            self.settings = ProviderSettings(**{**usual, **self._changes})
            self.providers = Providers(self.http, self.clock, client_key=CLIENT_KEY)
            yield self

    @property
    def provider(self) -> Provider:
        return self.providers.get(self.settings)

    async def url(self, **changes: str) -> str:
        asked = {"redirect_uri": REDIRECT, "state": "st", "nonce": "no", "code_challenge": "ch", **changes}
        return await self.provider.authorization_url(**asked)

    async def log_in(self, nonce: str = "no") -> Identity:
        """From a callback's code to an identity; the provider remembers the right nonce."""
        self.idp.nonce = "no"
        self.idp.codes.add("code")
        return await self.provider.exchange("code", redirect_uri=REDIRECT, nonce=nonce, code_verifier="ver")

    async def refresh(self, identity: Identity) -> Identity:
        self.idp.nonce = ""
        return await self.provider.refresh(identity.token, identity.id_token_claims)


def scene(type: str = "oidc", path: str = "", **settings: Any) -> Scene:
    return Scene(type=type, path=path, settings=settings)


def query(url: str) -> dict[str, str]:
    """The parameters of a URL, none of which may come twice."""
    text = urlsplit(url).query
    assert all(len(values) == 1 for values in parse_qs(text).values()), text
    return dict(parse_qsl(text, keep_blank_values=True))


def place(url: str) -> str:
    return url.partition("?")[0]
