"""The identity provider of the drill, and the people who log in there without a browser."""

from contextlib import AsyncExitStack
from http import HTTPStatus

import aiohttp

from pomerium_agent.demo.playground import free_port
from pomerium_agent.demo.provider import DevClient, DevUser, new_key, serve_dev_provider
from pomerium_agent.settings import Secret

ADA = DevUser(email="ada@example.com", password=Secret("ada"), name="Ada Lovelace")
SECRET = "drill"
SETTINGS = """
authenticate_service_url: {login}
idp_provider: oidc
idp_provider_url: {issuer}
idp_client_id: agent
idp_client_secret: {secret}
"""
NO_ANSWER = "The identity provider does not answer"


class Login:
    """A provider that can be stopped and started, for replicas whose login is at `login`."""

    def __init__(self, login: str) -> None:
        self._client = DevClient(id="agent", secret=Secret(SECRET), redirect_uris=(f"{login}/oauth2/callback",))
        self._port, self._key = free_port(), new_key()
        self.settings = SETTINGS.format(login=login, issuer=f"http://127.0.0.1:{self._port}", secret=SECRET)
        self._running = AsyncExitStack()

    async def start(self) -> None:
        serving = serve_dev_provider(users=[ADA], clients=[self._client], port=self._port, key=self._key)
        await self._running.enter_async_context(serving)

    async def stop(self) -> None:
        await self._running.aclose()


async def almost_in(client: aiohttp.ClientSession, url: str) -> str:
    """Open `url` as a stranger and say who we are at the provider; where that sends us, with its code."""
    async with client.get(url) as form:
        form.raise_for_status()
        asked = form.url
    async with client.post(asked, data={"email": ADA.email, "password": str(ADA.password)}) as told:
        told.raise_for_status()
        return told.headers["Refresh"].partition("url=")[2]


async def log_in(client: aiohttp.ClientSession, url: str) -> None:
    """From now on `client` is signed in."""
    async with client.get(await almost_in(client, url)) as landed:
        landed.raise_for_status()


async def is_told(client: aiohttp.ClientSession, back: str) -> bool:
    """Whether somebody who comes back from the provider is told that it is not there any more."""
    async with client.get(back) as page:
        return page.status == HTTPStatus.SERVICE_UNAVAILABLE and NO_ANSWER in await page.text()
