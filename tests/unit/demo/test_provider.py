"""The provider for development, by the client that replicas have, and what it refuses."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qs, quote, urlsplit

import aiohttp
import pytest

from pomerium_agent.console.login.round_trip import challenge_of
from pomerium_agent.demo.provider import DevClient, DevProvider, serve_dev_provider
from pomerium_agent.errors import GrantEnded, ProviderRefused, SettingsError
from pomerium_agent.idp import Identity, Provider, ProviderSettings, open_provider
from pomerium_agent.settings import Secret
from tests.fakes.clock import ManualClock
from tests.fakes.login_stage import ADA, GRACE, Browser

BACK = "https://app.example.com/oauth2/callback"
OUT = "https://app.example.com/.pomerium/signed_out"
CLIENT = DevClient(
    id="app", secret=Secret("it's / a +secret%"), redirect_uris=(BACK,), post_logout_redirect_uris=(OUT,)
)
VERIFIER = "v" * 43


@dataclass(frozen=True, kw_only=True)
class Scene:
    provider: DevProvider
    client: Provider
    browser: Browser
    clock: ManualClock

    async def url(self) -> str:
        return await self.client.authorization_url(
            redirect_uri=BACK, state="s", nonce="n", code_challenge=challenge_of(VERIFIER)
        )

    async def code(self) -> str:
        answer = await self.browser.go(await self.url())
        return parse_qs(urlsplit(answer.leads_to).query)["code"][0]

    async def exchange(self, code: str, verifier: str = VERIFIER) -> Identity:
        return await self.client.exchange(code, redirect_uri=BACK, nonce="n", code_verifier=verifier)


@asynccontextmanager
async def scene(secret: str = CLIENT.secret) -> AsyncIterator[Scene]:
    clock = ManualClock(datetime.now(UTC))
    async with (
        serve_dev_provider(users=(ADA, GRACE), clients=(CLIENT,), clock=clock) as provider,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
    ):
        settings = ProviderSettings(
            type="oidc",
            url=provider.issuer,
            client_id=CLIENT.id,
            client_secret=Secret(secret),
            authenticate_url="https://app.example.com",
        )
        client = open_provider(settings, http, clock)
        yield Scene(provider=provider, client=client, browser=Browser(http, "http://nowhere.invalid"), clock=clock)


async def test_somebody_logs_in_refreshes_and_signs_out() -> None:
    async with scene() as at:
        first = await at.exchange(await at.code())
        userinfo = await at.client.userinfo(first.token.access_token)
        second = await at.client.refresh(first.token, first.id_token_claims)
        again = await at.browser.ask(await at.url())
        out = await at.client.sign_out_url(id_token=first.id_token)
        assert out is not None
        done = await at.browser.ask(out)
        asked = await at.browser.ask(await at.url())

    assert (first.claims["email"], first.claims["groups"]) == (ADA.email, ["eng"])
    assert userinfo["name"] == "Ada Lovelace"
    assert second.token.refresh_token != first.token.refresh_token
    assert again.leads_to.startswith(BACK)  # one login is enough
    assert done.leads_to == OUT
    assert "password" in asked.form.asked
    assert "Development only" in asked.text


async def test_codes_and_refresh_tokens_work_once() -> None:
    async with scene() as at:
        code = await at.code()
        identity = await at.exchange(code)
        await at.client.refresh(identity.token, identity.id_token_claims)
        for attempt in (at.exchange(code), at.client.refresh(identity.token, identity.id_token_claims)):
            with pytest.raises(GrantEnded):
                await attempt
        with pytest.raises(GrantEnded):
            await at.exchange(await at.code(), verifier="w" * 43)
        at.clock.jump(301)
        with pytest.raises(GrantEnded):
            await at.client.userinfo(identity.token.access_token)


async def test_a_false_password_and_a_false_secret_are_refused() -> None:
    async with scene("false") as at:
        wrong = await at.browser.ask(await at.url(), form={"email": ADA.email, "password": "x"})
        with pytest.raises(ProviderRefused):
            await at.exchange(await at.code())

    assert wrong.status == 401
    assert ADA.email in wrong.text
    assert not wrong.leads_to


async def test_nobody_is_sent_to_a_place_that_is_not_registered() -> None:
    async with scene() as at:
        url = await at.url()
        elsewhere = await at.browser.ask(url.replace(quote(BACK, safe=""), quote("https://evil.example/", safe="")))
        plain = await at.browser.ask(url.replace("S256", "plain"))
        out = await at.browser.ask(f"{at.provider.issuer}/end_session?post_logout_redirect_uri=https://evil.example/")

    assert (elsewhere.status, plain.status) == (400, 400)
    assert (out.status, out.leads_to) == (200, "")


async def test_it_listens_on_loopback_and_names_a_port_in_use() -> None:
    async with scene() as at:
        port = int(at.provider.issuer.rpartition(":")[2])
        assert at.provider.issuer.startswith("http://127.0.0.1:")
        with pytest.raises(SettingsError, match=str(port)):
            async with serve_dev_provider(users=(), clients=(), port=port):
                pass
