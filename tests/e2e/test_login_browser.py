"""A person in a real browser signs in, is let in or not, looks around, signs out. Real provider, real Envoy."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from playwright.async_api import Browser, Page, expect

from pomerium_agent.demo.playground import ReplicaAt, free_port
from tests.e2e.world import World, open_world
from tests.fakes.browser import open_browser, open_profile, picture, words
from tests.fakes.oidc_provider import (
    ADA,
    GRACE,
    OidcClient,
    OidcProvider,
    OidcUser,
    needs_oidc_provider,
    run_oidc_provider,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), needs_oidc_provider]

SETTINGS = """
authenticate_service_url: https://authenticate.DOMAIN:PORT
idp_provider: oidc
idp_provider_url: ISSUER
idp_client_id: agent
idp_client_secret: SECRET
pass_identity_headers: true
jwt_claims_headers: [email]
"""
WIKI = """
name: Wiki
description: What everybody knows
from: https://wiki.DOMAIN
to: UPSTREAM
show_error_details: true
policy:
  allow:
    and:
      - email:
          is: ada@example.com
"""
OPEN = """
name: Anybody
from: https://anybody.DOMAIN
to: UPSTREAM
allow_any_authenticated_user: true
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    world: World
    replica: ReplicaAt
    provider: OidcProvider
    browser: Browser

    def url(self, host: str, path: str = "/") -> str:
        return self.world.url(self.replica, host, path)


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    """One replica with a login of its own, and the provider behind it."""
    port = free_port()
    async with open_browser() as browser, open_world() as world:
        login = f"https://authenticate.{world.domain}:{port}"
        client = OidcClient(
            redirect_uris=(f"{login}/oauth2/callback",),
            post_logout_redirect_uris=(f"{login}/.pomerium/signed_out",),
            backchannel_logout_uri=f"{login}/.pomerium/backchannel_logout",
        )
        async with run_oidc_provider([client], ca=world.cluster.ca_file) as provider:
            filled = SETTINGS.replace("DOMAIN", world.domain).replace("PORT", str(port))
            filled = filled.replace("ISSUER", provider.issuer).replace("SECRET", json.dumps(client.secret))
            await world.apply(WIKI, OPEN, settings=filled)
            world.sample.ca_file, world.sample.entrance = world.cluster.ca_file, port
            async with world.cluster.replica(port=port) as replica:
                yield Scene(world=world, replica=replica, provider=provider, browser=browser)


async def sign_in(page: Page, url: str, user: OidcUser) -> None:
    """Open `url` as a stranger and go through the provider's pages."""
    await page.goto(url)
    await page.fill("input[name=login]", user.login)
    await page.fill("input[name=password]", user.password)
    await page.click("button[type=submit]")
    await page.click("button[type=submit]")  # consent
    await page.wait_for_url(url)


async def test_somebody_signs_in_looks_around_and_signs_out() -> None:
    """N-20, N-23, N-40, N-43: through sign-in, upstream, account, portal and sign-out, without a dead end."""
    async with scene() as here, open_profile(here.browser) as profile:
        page = await profile.new_page()
        await sign_in(page, here.url("wiki", "/deep?x=1"), ADA)
        await expect(page.get_by_role("heading", level=1)).to_have_text("Hello, Ada Lovelace!")
        await picture(page, "upstream")

        await page.goto(here.url("anybody"))  # known there too, without another login
        await expect(page.get_by_role("heading", level=1)).to_have_text("Hello, Ada Lovelace!")

        await page.goto(here.url("wiki", "/.pomerium/"))
        await expect(page.get_by_role("heading", level=1)).to_contain_text("Ada")
        assert ADA.email in await words(page)
        await picture(page, "account")

        await page.goto(here.url("wiki", "/.pomerium/routes"))
        assert "Wiki" in await words(page)
        await picture(page, "portal")

        cookies = {cookie["name"]: cookie for cookie in await profile.cookies(here.url("wiki"))}
        session = cookies["_pomerium"]
        assert (session["secure"], session["httpOnly"], session["path"]) == (True, True, "/")
        assert session["domain"] == f"wiki.{here.world.domain}"

        await page.goto(here.url("wiki", "/.pomerium/"))
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_role("button", name="Yes, sign me out").click()  # the certified provider asks, too
        await expect(page.get_by_role("heading", level=1)).to_have_text("You are signed out")

        stolen = {"Cookie": f"_pomerium={session['value']}", "Accept": "application/json"}
        answer = await here.world.get(here.replica, "wiki", headers=stolen)
        assert answer.status == 401


async def test_somebody_who_may_not_sees_why_not() -> None:
    """A-17: the page names what is missing, and who they are."""
    async with scene() as here, open_profile(here.browser) as profile:
        page = await profile.new_page()
        await sign_in(page, here.url("wiki"), GRACE)
        body = await words(page)
        assert "403" in body
        assert "Your email address is not among those that this page is for." in body
        assert GRACE.email in body
        await page.goto(here.url("anybody"))
        await expect(page.get_by_role("heading", level=1)).to_have_text("Hello, Grace Hopper!")
        await page.goto(here.url("anybody", "/.pomerium/routes"))
        body = await words(page)
        assert "Anybody" in body
        assert "Wiki" not in body
