"""A login as requests and answers, through a real Envoy and a certified provider (authenticate 5, 8.6, 8.7)."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, urlsplit

import aiohttp
import pytest

from pomerium_agent.demo.playground import ReplicaAt, free_port
from tests.e2e.world import World, eventually, open_world
from tests.fakes.oidc_provider import ADA, Browser, OidcClient, needs_oidc_provider, run_oidc_provider

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120), needs_oidc_provider]

SETTINGS = """
authenticate_service_url: https://authenticate.DOMAIN:PORT
idp_provider: oidc
idp_provider_url: ISSUER
idp_client_id: agent
idp_client_secret: SECRET
scopes: [openid, profile, email]
request_params: {prompt: consent}
cookie_name: _door
cookie_expire: 8h
cookie_same_site: lax
cookie_http_only: true
programmatic_redirect_domain_whitelist: [localhost, tools.example.com]
"""
ROUTE = """
from: https://NAME.DOMAIN
to: UPSTREAM
allow_any_authenticated_user: true
"""
HTML = {"Accept": "text/html"}
PROGRAM = "http://127.0.0.1:9/done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    world: World
    replica: ReplicaAt
    http: aiohttp.ClientSession  # a browser without a screen
    browser: Browser

    def url(self, host: str, path: str = "/") -> str:
        return self.world.url(self.replica, host, path)

    async def ask(self, url: str, method: str = "GET", **options: object) -> tuple[int, str, str]:
        """Status, where to, and body; nothing is followed."""
        async with self.http.request(method, url, headers=HTML, allow_redirects=False, **options) as answer:  # type: ignore[arg-type]
            return answer.status, answer.headers.get("Location", ""), await answer.text()

    async def sign_in(self, wanted: str) -> None:
        status, location, text = await self.ask(wanted)
        assert status == 302, text
        await self.browser.log_in(location, ADA, until=wanted)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    port = free_port()
    async with open_world() as world:
        client = OidcClient(redirect_uris=(f"https://authenticate.{world.domain}:{port}/oauth2/callback",))
        async with run_oidc_provider([client]) as provider:
            filled = SETTINGS.replace("DOMAIN", world.domain).replace("PORT", str(port))
            filled = filled.replace("ISSUER", provider.issuer).replace("SECRET", json.dumps(client.secret))
            await world.apply(ROUTE.replace("NAME", "wiki"), ROUTE.replace("NAME", "notes"), settings=filled)
            async with (
                world.cluster.replica(port=port) as replica,
                aiohttp.ClientSession(
                    connector=world.client.connector, connector_owner=False, cookie_jar=aiohttp.CookieJar(unsafe=True)
                ) as http,
            ):
                here = Scene(world=world, replica=replica, http=http, browser=Browser(http))

                async def login_is_served() -> bool:
                    return (await here.ask(here.url("wiki")))[0] == 302

                await eventually("logins begin", login_is_served)
                yield here


async def test_one_login_opens_every_host() -> None:
    """5.1 to 5.3, routes 1.7 (14, 16, 22 to 26, 30, 113): with its query; the second host asks nobody."""
    async with scene() as here:
        await here.sign_in(here.url("wiki", "/deep?x=1&y=a+b"))
        assert (await here.ask(here.url("wiki", "/deep?x=1&y=a+b")))[0] == 200

        _, location, _ = await here.ask(here.url("notes"))
        _, callback, _ = await here.ask(location)
        status, landed, _ = await here.ask(callback)

        assert urlsplit(callback).path == "/.pomerium/callback/"
        assert (status, landed) == (302, here.url("notes"))
        assert (await here.ask(here.url("notes")))[0] == 200
        again, _, text = await here.ask(callback)
        assert again == 400  # N-15
        assert "already used" in text
        kept = [cookie for cookie in here.http.cookie_jar if cookie.key == "_door"]
        assert len(kept) >= 2  # one for each host
        assert {(cookie["samesite"].lower(), cookie["httponly"], cookie["secure"]) for cookie in kept} == {
            ("lax", True, True)
        }
        asked = [parse_qs(urlsplit(url).query) for url in here.browser.visited if "/auth?" in url]
        assert [(q["scope"], q["prompt"]) for q in asked] == [(["openid profile email"], ["consent"])]


async def test_a_program_gets_a_handle_that_opens_the_route() -> None:
    """8.6, N-42, routes 1.7 (68): the URL, the login in a browser, the handle in a header."""
    async with scene() as here:
        asked = here.url("wiki", f"/.pomerium/api/v1/login?pomerium_redirect_uri={quote(PROGRAM, safe='')}")
        status, _, url = await here.ask(asked)
        assert status == 200
        for target, expected in (("https://tools.example.com/x", 200), ("https://elsewhere.example.com/x", 400)):
            back = here.url("wiki", f"/.pomerium/api/v1/login?pomerium_redirect_uri={quote(target, safe='')}")
            assert (await here.ask(back))[0] == expected
        landed = await here.browser.log_in(url, ADA, until=PROGRAM)
        handle = parse_qs(urlsplit(landed).query)["pomerium_jwt"][0]

        bare = await here.world.get(here.replica, "wiki", headers={"Accept": "application/json"})
        with_handle = await here.world.get(
            here.replica, "wiki", headers={"Accept": "application/json", "Authorization": f"Pomerium {handle}"}
        )

        assert (bare.status, with_handle.status) == (401, 200)


async def test_the_pages_of_a_login_are_reached_through_envoy_and_no_others() -> None:
    """2.1, N-10, N-48: keys and discovery on every host, login pages on theirs; nobody asks about tokens unproven."""
    async with scene() as here:
        async with here.http.get(here.url("wiki", "/.well-known/pomerium/hpke-public-key")) as answer:
            assert len(await answer.read()) == 32
        assert (await here.ask(here.url("authenticate", "/robots.txt")))[0] == 200
        assert (await here.ask(here.url("authenticate")))[:2] == (302, "/.pomerium/")
        assert (await here.ask(here.url("authenticate", "/oauth2/callback?code=c&state=s")))[0] == 400
        assert (await here.ask(here.url("wiki", "/.pomerium/sign_in")))[0] == 404
        unproven = here.url("authenticate", "/.pomerium/verify-access-token")
        assert (await here.ask(unproven, "POST", json={"accessToken": "x"}))[0] == 401
        large = "x" * 40_000  # of cookies of others; Envoy lets it through, and so do we
        status, _, _ = await here.ask(here.url("authenticate", "/robots.txt"), cookies={"other": large})
        assert status == 200
