"""A cluster without any identity provider of its own: the console logs its people in. Real browser, Envoy, provider."""

import json

import pytest
from playwright.async_api import expect

from pomerium_agent.demo.playground import free_port
from tests.e2e.world import open_world
from tests.fakes.browser import open_browser, open_profile, words
from tests.fakes.oidc_provider import ADA, OidcClient, needs_oidc_provider, run_oidc_provider

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), needs_oidc_provider]

OPEN = """
name: Anybody
from: https://anybody.DOMAIN
to: UPSTREAM
allow_any_authenticated_user: true
"""


async def test_somebody_signs_in_at_the_console_for_a_cluster_that_has_no_provider() -> None:
    """N-11, N-45, N-46: pinned key, sealed hand-over, consent once; the second login is none for the visitor."""
    async with open_browser() as browser, open_world() as world:
        console = world.cluster.console.cluster_api.removesuffix("/cluster/v1").replace("127.0.0.1", "localhost")
        client = OidcClient(
            redirect_uris=(f"{console}/oauth2/callback",),
            post_logout_redirect_uris=(f"{console}/.pomerium/signed_out",),
        )
        async with run_oidc_provider([client]) as provider, open_profile(browser) as profile:
            secret = world.cluster.directory / "secret"
            secret.write_text(client.secret)
            given = ("--provider", "oidc", "--url", provider.issuer, "--client-id", client.id)
            where = ("--client-secret-file", str(secret), "--public-url", console)
            await world.apply(OPEN, settings="pass_identity_headers: true\njwt_claims_headers: [email]\n")
            await world.cluster.verb("console", "login", "set", *given, *where)
            pinned = json.loads(await world.cluster.verb("console", "login", "show", "--json"))["keys"]
            world.sample.ca_file, world.sample.entrance = world.cluster.ca_file, (port := free_port())
            async with world.cluster.replica(port=port) as replica:
                page = await profile.new_page()
                url = world.url(replica, "anybody", "/deep?x=1")
                await page.goto(url)
                await page.fill("input[name=login]", ADA.login)
                await page.fill("input[name=password]", ADA.password)
                await page.click("button[type=submit]")
                await page.click("button[type=submit]")  # the provider's own consent
                await expect(page.get_by_role("heading", level=1)).to_contain_text("wants to know who you are")
                asked = await words(page)
                await page.get_by_role("button", name="Continue").click()
                await page.wait_for_url(url)
                greeted = await words(page)

                await profile.clear_cookies(domain=f"anybody.{world.domain}")
                await page.goto(url)
                await page.wait_for_url(url)
                again = await words(page)

    assert len(pinned) == 1
    assert world.domain in asked
    assert ADA.email in asked
    assert ADA.name in greeted
    assert ADA.name in again
