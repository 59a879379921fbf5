"""One replica with a login of its own, the certified provider behind it, and browsers in front of it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from playwright.async_api import Browser, Page

from pomerium_agent.demo.playground import ReplicaAt, free_port
from tests.e2e.world import World, open_world
from tests.fakes.browser import open_browser
from tests.fakes.oidc_provider import OidcClient, OidcProvider, OidcUser, run_oidc_provider

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
CHAIN = """
name: Chain
from: https://chain.DOMAIN
to: UPSTREAM
allow_any_authenticated_user: true
depends_on: ["anybody.DOMAIN:PORT", "wiki.DOMAIN:PORT"]
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
            await world.apply(WIKI, OPEN, CHAIN.replace("PORT", str(port)), settings=filled)
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
