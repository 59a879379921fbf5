"""The certified OpenID Connect provider: logins, refreshes and logouts as a browser and our client go through them."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pomerium_agent.errors import GrantEnded, NotBelieved, ProviderRefused
from pomerium_agent.idp import Identity, Provider, ProviderSettings, Token, open_provider
from pomerium_agent.idp.pkce import code_challenge_of, new_code_verifier
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.settings import Secret
from tests.fakes.oidc_provider import (
    ADA,
    GRACE,
    Browser,
    OidcClient,
    OidcProvider,
    OidcUser,
    needs_oidc_provider,
    run_oidc_provider,
)

pytestmark = [pytest.mark.e2e, needs_oidc_provider]

REDIRECT = "https://authenticate.localhost/oauth2/callback"
SIGNED_OUT = "https://authenticate.localhost/.pomerium/signed_out"


@dataclass(slots=True, kw_only=True)
class Scene:
    """A provider, our client of it, and a browser."""

    oidc: OidcProvider
    provider: Provider
    http: aiohttp.ClientSession
    browser: Browser

    async def log_in(self, user: OidcUser, *, wrong: str = "") -> Identity:
        """One login from beginning to end; `wrong` names what the callback's side gets wrong."""
        verifier, nonce, state = new_code_verifier(), secrets.token_urlsafe(), secrets.token_urlsafe()
        assert await self.provider.uses_pkce()
        url = await self.provider.authorization_url(
            redirect_uri=REDIRECT, state=state, nonce=nonce, code_challenge=code_challenge_of(verifier)
        )
        landed = parse_qs(urlsplit(await self.browser.log_in(url, user, until=REDIRECT)).query)
        assert landed["state"] == [state]
        await self.provider.check_callback_issuer(landed["iss"][0])
        return await self.provider.exchange(
            landed["code"][0],
            redirect_uri=REDIRECT,
            nonce="other" if wrong == "nonce" else nonce,
            code_verifier="x" * 43 if wrong == "verifier" else verifier,
        )


@asynccontextmanager
async def scene(*, secret: str = "", **client: Any) -> AsyncIterator[Scene]:
    registered = OidcClient(redirect_uris=(REDIRECT,), post_logout_redirect_uris=(SIGNED_OUT,), **client)
    async with (
        run_oidc_provider(clients=[registered]) as oidc,
        aiohttp.ClientSession() as http,
        aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as pages,
    ):
        settings = ProviderSettings(
            type="oidc",
            url=oidc.issuer,
            client_id=registered.id,
            client_secret=Secret(secret or registered.secret),
            scopes=("openid", "email", "profile", "groups", "offline_access"),
            request_params={"prompt": "consent"},
            authenticate_url="https://authenticate.localhost",
        )
        provider = open_provider(settings, http, SystemClock())
        yield Scene(oidc=oidc, provider=provider, http=http, browser=Browser(pages))


async def test_a_login_brings_claims_and_tokens_that_can_be_refreshed_checked_and_given_back() -> None:
    """Authenticate 5.2, 6.1, 8.2, 8.7."""
    async with scene() as here:
        ada = await here.log_in(ADA)
        fresh = await here.provider.refresh(ada.token, ada.id_token_claims)
        by_id_token = await here.provider.verify_id_token(ada.id_token)
        by_access_token = await here.provider.verify_access_token(fresh.token.access_token)

        url = await here.provider.sign_out_url(id_token=ada.id_token)
        assert url is not None
        back = await here.browser.go(url, until=SIGNED_OUT)

        await here.provider.revoke(fresh.token)
        with pytest.raises(GrantEnded):
            await here.provider.verify_access_token(fresh.token.access_token)
        with pytest.raises(GrantEnded):
            await here.provider.refresh(fresh.token, ada.id_token_claims)

    assert ada.user_id == "ada"
    assert (ada.claims["email"], ada.claims["name"], ada.claims["groups"]) == (ADA.email, ADA.name, list(ADA.groups))
    assert ada.token.expires_at is not None
    assert fresh.token.access_token != ada.token.access_token
    assert fresh.token.refresh_token
    assert (fresh.claims["email"], fresh.id_token_claims["sub"]) == (ADA.email, "ada")
    assert by_id_token["sub"] == by_access_token["sub"] == "ada"
    assert back == SIGNED_OUT
    assert "***" in repr(ada)
    assert ada.token.access_token not in repr(ada)


@pytest.mark.parametrize("auth_method", ["client_secret_basic", "client_secret_post"])
@pytest.mark.parametrize("id_token_alg", ["RS256", "ES256", "PS256"])
async def test_whatever_way_a_client_is_registered_it_can_log_in(auth_method: str, id_token_alg: str) -> None:
    """Authenticate 6.1."""
    async with scene(auth_method=auth_method, id_token_alg=id_token_alg) as here:
        grace = await here.log_in(GRACE)
        fresh = await here.provider.refresh(grace.token, grace.id_token_claims)

    assert grace.claims["email"] == fresh.claims["email"] == GRACE.email


async def test_a_login_that_is_not_ours_is_refused() -> None:
    """N-23: a nonce of another login, a verifier of another browser, an invented code."""
    async with scene() as here:
        with pytest.raises(NotBelieved, match="nonce"):
            await here.log_in(ADA, wrong="nonce")
        with pytest.raises(GrantEnded):
            await here.log_in(ADA, wrong="verifier")
        with pytest.raises(GrantEnded):
            await here.provider.exchange("invented", redirect_uri=REDIRECT, nonce="n", code_verifier="v" * 43)
        with pytest.raises(NotBelieved, match="iss"):
            await here.provider.check_callback_issuer("")


async def test_a_wrong_secret_is_told_apart_from_a_session_that_is_over() -> None:
    async with scene(secret="not it") as here:
        with pytest.raises(ProviderRefused, match="check the client id and secret") as refused:
            await here.log_in(ADA)
        with pytest.raises(ProviderRefused) as again:
            await here.provider.refresh(Token(access_token=Secret("a"), refresh_token=Secret("r")), {"sub": "ada"})

    assert not isinstance(refused.value, GrantEnded)
    assert not isinstance(again.value, GrantEnded)
    assert "not it" not in str(refused.value)


async def test_a_wrong_password_logs_nobody_in() -> None:
    async with scene() as here:
        with pytest.raises(AssertionError, match="401"):
            await here.log_in(OidcUser(login="ada", password="guess", email="", name=""))


async def test_a_logout_elsewhere_is_told_and_believed() -> None:
    """OpenID Connect Back-Channel Logout, by the real thing."""
    told: asyncio.Queue[str] = asyncio.Queue()

    async def listen(request: web.Request) -> web.Response:
        told.put_nowait(str((await request.post())["logout_token"]))
        return web.Response()

    app = web.Application()
    app.router.add_post("/logout", listen)
    async with (
        TestServer(app, host="127.0.0.1") as server,
        scene(backchannel_logout_uri=str(server.make_url("/logout"))) as here,
    ):
        ada = await here.log_in(ADA)
        url = await here.provider.sign_out_url(id_token=ada.id_token)
        assert url is not None
        await here.browser.go(url, until=SIGNED_OUT)
        raw = await asyncio.wait_for(told.get(), 10)
        logout = await here.provider.verify_logout_token(raw)

        with pytest.raises(NotBelieved):
            await here.provider.verify_id_token(raw)
        with pytest.raises(NotBelieved):
            await here.provider.verify_logout_token(ada.id_token)

    assert (logout.subject, logout.issuer) == ("ada", here.oidc.issuer)
    assert logout.sid == ada.id_token_claims["sid"]
    assert logout.id
