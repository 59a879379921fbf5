"""A person in a real browser signs in, is let in or not, looks around, signs out. Real provider, real Envoy."""

import pytest
from playwright.async_api import expect

from tests.e2e.login_scene import scene, sign_in
from tests.fakes.browser import open_profile, picture, words
from tests.fakes.oidc_provider import ADA, GRACE, needs_oidc_provider

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), needs_oidc_provider]


async def test_somebody_signs_in_looks_around_and_signs_out() -> None:
    """N-20, N-23, N-40, N-43, routes 1.2 (1), 1.7 (117).

    Through sign-in, upstream, account, portal and sign-out, without a dead end.
    """
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
