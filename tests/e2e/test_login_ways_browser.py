"""The less usual ways of logging in and out, in a real browser: tabs, programs, chains, circles, others' sites."""

import asyncio
import json
from urllib.parse import quote

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Page, expect

from pomerium_agent.authorize.loop import ALLOWED
from tests.e2e.login_scene import Scene, scene, sign_in
from tests.e2e.world import eventually
from tests.fakes.browser import open_profile, picture, words
from tests.fakes.oidc_provider import ADA, needs_oidc_provider

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), needs_oidc_provider]


async def at_provider(page: Page, url: str) -> None:
    """Open `url` as a stranger, up to the provider's form."""
    await page.goto(url)
    await page.locator("input[name=password]").wait_for()


async def fill_in(page: Page, *, consent: bool = True) -> None:
    await page.fill("input[name=login]", ADA.login)
    await page.fill("input[name=password]", ADA.password)
    await page.click("button[type=submit]")
    if consent:
        await page.click("button[type=submit]")


async def status(here: Scene, host: str, token: str) -> int:
    return (await here.world.get(here.replica, host, headers=cookie(token))).status


def cookie(token: str) -> dict[str, str]:
    return {"Cookie": f"_pomerium={token}", "Accept": "application/json"}


async def test_two_tabs_log_in_at_once_and_both_arrive() -> None:
    """N-15, N-22."""
    async with scene() as here, open_profile(here.browser) as profile:
        first, second = await profile.new_page(), await profile.new_page()
        await at_provider(first, here.url("wiki", "/one"))
        await at_provider(second, here.url("anybody", "/two"))
        await fill_in(second)
        await second.wait_for_url(here.url("anybody", "/two"))
        await fill_in(first, consent=False)  # given a moment ago
        await first.wait_for_url(here.url("wiki", "/one"))
        for page in (first, second):
            await expect(page.get_by_role("heading", level=1)).to_have_text("Hello, Ada Lovelace!")


async def test_one_login_is_enough_for_all_hosts_and_a_chain_brings_cookies_to_others() -> None:
    """N-25, 5.1, 5.3: the second host asks nobody; the chain passes through each of its hosts and ends where wanted."""
    async with scene() as here, open_profile(here.browser) as profile:
        page = await profile.new_page()
        await sign_in(page, here.url("chain", "/deep?x=1"), ADA)
        await expect(page.get_by_role("heading", level=1)).to_have_text("Hello, Ada Lovelace!")
        tokens = set()
        for host in ("chain", "anybody", "wiki"):
            [session] = [each for each in await profile.cookies(here.url(host)) if each["name"] == "_pomerium"]
            assert session["domain"] == f"{host}.{here.world.domain}"
            tokens.add(session["value"])
        assert len(tokens) == 1

        await profile.clear_cookies(name="_pomerium")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(here.url("wiki"))
        await expect(page.get_by_role("heading", level=1)).to_have_text("Hello, Ada Lovelace!")
        assert any("/.pomerium/sign_in" in url for url in asked)
        assert not any(url.startswith(here.provider.issuer) for url in asked)


async def test_a_program_gets_a_handle_that_works_in_headers_and_the_browser_gets_none() -> None:
    """8.6, N-42, A-28: end to end with a listener of the program; and nobody puts an assertion past authorization."""
    told: asyncio.Queue[str] = asyncio.Queue()

    async def listen(request: web.Request) -> web.Response:
        told.put_nowait(request.query.get("pomerium_jwt", ""))
        return web.Response(text="<!DOCTYPE html><title>done</title>done", content_type="text/html")

    app = web.Application()
    app.router.add_get("/done", listen)
    async with scene() as here, open_profile(here.browser) as profile, TestServer(app, host="127.0.0.1") as server:
        back = str(server.make_url("/done"))
        asked = f"/.pomerium/api/v1/login?pomerium_redirect_uri={quote(back, safe='')}"
        answer = await here.world.get(here.replica, "wiki", asked)
        assert answer.status == 200
        page = await profile.new_page()
        await page.goto(answer.text)
        await fill_in(page)
        token = await asyncio.wait_for(told.get(), 20)

        assert not [each for each in await profile.cookies(here.url("wiki")) if each["name"] == "_pomerium"]
        as_header = {"Authorization": f"Pomerium {token}"}
        assert (await here.world.get(here.replica, "wiki", headers=as_header)).status == 200
        listed = await here.world.get(here.replica, "wiki", "/.pomerium/api/v1/routes", headers=as_header)
        assert {each["name"] for each in json.loads(listed.text)["routes"]} == {"Wiki", "Anybody", "Chain"}

        forged = {"X-Pomerium-Jwt-Assertion": "e30.eyJzdWIiOiJtYWxsb3J5In0.x", "Accept": "application/json"}
        user = await here.world.get(here.replica, "wiki", "/.pomerium/user", headers={**as_header, **forged})
        assert (user.status, user.json()["sub"]) == (200, "ada")
        for path in ("user", "%75ser", "jwt", "routes", "api/v1/routes"):
            stranger = await here.world.get(here.replica, "wiki", f"/.pomerium/{path}", headers=forged)
            assert stranger.status == 401, path
        for path in ("/.pomerium//user", "/.pomerium/x/../user", "/.pomerium/user/"):
            stranger = await here.world.get(here.replica, "wiki", path, headers=forged)
            assert stranger.status in (401, 404), path
            assert "mallory" not in stranger.text
        jwt = await here.world.get(here.replica, "wiki", "/.pomerium/jwt", headers={**as_header, **forged})
        assert jwt.status == 404


async def test_a_session_that_the_provider_ends_is_over_here() -> None:
    """Back-Channel Logout by the real thing: at the next request somebody has to log in, and no copy counts."""
    async with scene() as here, open_profile(here.browser) as profile:
        page = await profile.new_page()
        await sign_in(page, here.url("wiki"), ADA)
        [session] = [each for each in await profile.cookies(here.url("wiki")) if each["name"] == "_pomerium"]
        assert await status(here, "wiki", session["value"]) == 200

        elsewhere = await profile.new_page()
        await elsewhere.goto(f"{here.provider.issuer}/session/end")
        await elsewhere.get_by_role("button", name="Yes, sign me out").click()
        await elsewhere.wait_for_url(f"{here.provider.issuer}/session/end/success**")

        async def is_over() -> bool:
            return await status(here, "wiki", session["value"]) == 401

        await eventually("the session is over", is_over)
        await at_provider(page, here.url("wiki"))


async def test_another_site_cannot_sign_anybody_out() -> None:
    """N-41: by a link, a picture, a frame or a form of theirs, with a signed link of their own as well."""
    pages: dict[str, str] = {}

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=pages.get(request.path, ""), content_type="text/html")

    app = web.Application()
    app.router.add_get("/{name}", answer)
    async with scene() as here, open_profile(here.browser) as profile, TestServer(app, host="127.0.0.1") as server:
        page = await profile.new_page()
        await sign_in(page, here.url("wiki"), ADA)
        [session] = [each for each in await profile.cookies(here.url("wiki")) if each["name"] == "_pomerium"]
        mallory = await here.world.get(here.replica, "wiki", "/.pomerium/sign_out", headers={"Sec-Fetch-Site": "none"})
        assert mallory.status == 302
        targets = [here.url("wiki", "/.pomerium/sign_out"), mallory.headers["Location"].replace("&", "&amp;")]
        for number, target in enumerate(targets):
            pages[f"/form{number}"] = f'<form method=post action="{target}"><button>win</button></form>'
            pages[f"/link{number}"] = f'<a href="{target}">win</a>'
            pages[f"/picture{number}"] = f'<link rel=icon href="data:,"><img src="{target}">'
            for kind in ("form", "link"):
                await page.goto(str(server.make_url(f"/{kind}{number}")))
                await page.get_by_text("win").click()
                await expect(page.get_by_role("heading", level=1)).to_have_text("Sign out?")
            await page.goto(str(server.make_url(f"/picture{number}")))
            assert await status(here, "wiki", session["value"]) == 200
        await page.goto(here.url("wiki"))
        await expect(page.get_by_role("heading", level=1)).to_have_text("Hello, Ada Lovelace!")

        await page.goto(here.url("wiki", "/.pomerium/sign_out"))  # by hand it works
        await page.get_by_role("button", name="Yes, sign me out").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("You are signed out")
        assert await status(here, "wiki", session["value"]) == 401


async def test_a_browser_that_loses_its_cookie_is_told_so() -> None:
    """It is sent to sign in a few times, and then gets a page that says what may be wrong, with a way on."""
    async with scene() as here, open_profile(here.browser, dark=True) as profile:
        page = await profile.new_page()
        await sign_in(page, here.url("wiki"), ADA)
        for _ in range(3 * ALLOWED):
            await profile.clear_cookies(name="_pomerium")
            answer = await page.goto(here.url("wiki"))
            if answer is not None and answer.status == 429:
                break
            await asyncio.sleep(1)  # tabs of one second count once
        await expect(page.get_by_role("heading", level=1)).to_have_text("Signing in goes round in circles")
        assert "The session cookie does not come back" in await words(page)
        assert answer is not None
        assert answer.headers["cache-control"] == "no-store"
        await picture(page, "loop")
        await page.get_by_role("link", name="Sign in again").click()
        await expect(page.get_by_role("heading", level=1)).to_have_text("Hello, Ada Lovelace!")


async def test_pages_cannot_be_framed_by_others() -> None:
    """Nobody clicks our buttons for somebody else."""
    async with scene() as here:
        for path in ("/", "/.pomerium/", "/.pomerium/sign_out", "/.pomerium/signed_out"):
            answer = await here.world.get(here.replica, "wiki", path, headers={"Accept": "text/html"})
            assert answer.headers["X-Frame-Options"] in ("DENY", "SAMEORIGIN"), path  # the latter by default settings
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], path
            assert answer.headers["Cache-Control"] == "no-store", path
