"""The identity provider goes away and comes back, under a running replica and in front of real browsers."""

from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from pomerium_agent.demo.playground import free_port
from pomerium_agent.demo.provider import DevClient, DevUser, new_key, serve_dev_provider
from pomerium_agent.settings import Secret
from tests.e2e.login_scene import SETTINGS
from tests.e2e.world import open_world
from tests.fakes.browser import open_browser, open_profile, picture, words

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

OPEN = """
from: https://anybody.DOMAIN
to: UPSTREAM
allow_any_authenticated_user: true
"""
ADA = DevUser(email="ada@example.com", password=Secret("ada"), name="Ada Lovelace")
GREETING = "Hello, Ada Lovelace!"


async def log_in(page: Page, url: str) -> None:
    await page.goto(url)
    await page.get_by_label("Email").fill(ADA.email)
    await page.get_by_label("Password").fill(ADA.password)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text(GREETING)


async def test_while_the_provider_is_down_those_who_are_in_stay_in_and_others_are_told(tmp_path: Path) -> None:
    """N-36, architecture 7: afterwards all is well without a restart.

    How a session outlives ten minutes of it, refreshes included, is shown with a clock that is moved by hand.
    """
    port, issuer_port, key = free_port(), free_port(), new_key()
    async with open_browser() as browser, open_world() as world:
        login = f"https://authenticate.{world.domain}:{port}"
        client = DevClient(id="agent", secret=Secret("secret"), redirect_uris=(f"{login}/oauth2/callback",))
        filled = SETTINGS.replace("DOMAIN", world.domain).replace("PORT", str(port)).replace("SECRET", "secret")
        await world.apply(OPEN, settings=filled.replace("ISSUER", f"http://127.0.0.1:{issuer_port}"))
        world.sample.ca_file, world.sample.entrances = world.cluster.ca_file, (port,)
        async with world.cluster.replica(port=port) as replica:
            url = world.url(replica, "anybody")
            pids = await replica.pids()
            async with open_profile(browser) as known, open_profile(browser) as stranger:
                page, other = await known.new_page(), await stranger.new_page()
                async with serve_dev_provider(users=[ADA], clients=[client], port=issuer_port, key=key):
                    await log_in(page, url)

                await page.goto(url)
                await expect(page.get_by_role("heading", level=1)).to_have_text(GREETING)
                # The discovery document is known still, so the browser is sent to a provider that is not there;
                # whoever comes back with a code meets our page, as does everybody where discovery is not known.
                await page.goto(world.url(replica, "anybody", "/.pomerium/"))
                assert ADA.email in await words(page)

                async with serve_dev_provider(users=[ADA], clients=[client], port=issuer_port, key=key):
                    await other.goto(url)
                    await other.get_by_label("Email").fill(ADA.email)
                    await other.get_by_label("Password").fill(ADA.password)
                    held: list[str] = []

                    async def hold(route: object, request: object) -> None:
                        held.append(request.url)  # type: ignore[attr-defined]  # what playwright hands over
                        await route.abort()  # type: ignore[attr-defined]

                    await other.route("**/oauth2/callback**", hold)
                    await other.get_by_role("button", name="Sign in").click()
                    await other.wait_for_timeout(200)
                await other.unroute("**/oauth2/callback**")
                answer = await other.goto(held[0])
                assert answer is not None
                assert answer.status == 503
                await expect(other.get_by_role("heading", level=1)).to_have_text(
                    "The identity provider does not answer"
                )
                await picture(other, "provider-down")

                async with serve_dev_provider(users=[ADA], clients=[client], port=issuer_port, key=key):
                    await log_in(other, url)
            assert await replica.pids() == pids
