"""The way to the provider and back, and whether it still vouches for a session (authenticate 5.2)."""

from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from pomerium_agent.console.login import manage
from pomerium_agent.console.login.answers import BROWSER_COOKIE, SESSION_COOKIE
from pomerium_agent.console.login.sessions import SESSION_LIFE, Sessions
from pomerium_agent.console.login.settings import checked_settings
from pomerium_agent.settings import Secret
from tests.fakes.login_stage import LOGIN, Browser, Stage, login_stage


async def begun(stage: Stage, browser: Browser) -> str:
    """The provider's page to which a sign-in leads."""
    answer = await browser.ask(stage.wiki.ask(await stage.server_key(), stage.now))
    assert answer.leads_to.startswith(f"{stage.provider.issuer}/authorize?")
    return answer.leads_to


async def callback(stage: Stage, browser: Browser) -> str:
    """Where the provider sends a browser back to; not asked yet."""
    url = await begun(stage, browser)
    form = {"email": browser.user.email, "password": str(browser.user.password)}
    back = (await browser.ask(url, form=form)).leads_to
    assert back.startswith(f"{LOGIN}/oauth2/callback?")
    return back


async def test_the_provider_is_asked_with_a_state_a_nonce_and_a_challenge(tmp_path: Path) -> None:
    """N-23; nothing of the sealed question reaches the provider."""
    async with login_stage(tmp_path) as stage:
        asked = parse_qs(urlsplit(await begun(stage, stage.browser())).query)

    assert asked["redirect_uri"] == [f"{LOGIN}/oauth2/callback"]
    assert asked["code_challenge_method"] == ["S256"]
    assert len(asked["state"][0]) == len(asked["nonce"][0]) == 43
    assert "k=" not in asked["state"][0]


async def test_a_callback_counts_once_in_the_browser_that_began(tmp_path: Path) -> None:
    """N-22: another browser, a changed state and a second use are refused, and sign nobody in."""
    async with login_stage(tmp_path) as stage:
        browser, other = stage.browser(), stage.browser()
        back = await callback(stage, browser)

        elsewhere = await other.ask(back)
        changed = await browser.ask(back.replace("state=", "state=x"))
        first = await browser.ask(back)
        second = await browser.ask(back)

    assert [answer.status for answer in (elsewhere, changed, first, second)] == [400, 400, 302, 400]
    assert SESSION_COOKIE not in other.cookies["login.example.com"]


async def test_a_callback_after_a_quarter_of_an_hour_is_too_late(tmp_path: Path) -> None:
    async with login_stage(tmp_path) as stage:
        browser = stage.browser()
        back = await callback(stage, browser)
        stage.clock.jump(901)

        assert (await browser.ask(back)).status == 400


async def test_two_tabs_sign_in_side_by_side(tmp_path: Path) -> None:
    """N-22."""
    async with login_stage(tmp_path) as stage:
        browser = stage.browser()
        one, two = await begun(stage, browser), await begun(stage, browser)

        answers = [await browser.go(url) for url in (two, one)]

    assert [answer.leads_to.partition("?")[0] for answer in answers] == [
        "https://app.wiki.example.com/.pomerium/callback/"
    ] * 2


@pytest.mark.parametrize(("error", "status"), [("access_denied", 401), ("server_error", 400), ("<script>", 400)])
async def test_a_provider_that_says_no_is_heard(tmp_path: Path, error: str, status: int) -> None:
    async with login_stage(tmp_path) as stage:
        answer = await stage.browser().ask(f"{LOGIN}/oauth2/callback?error={error}&state=x")

    assert answer.status == status
    assert "<script>alert" not in answer.text


async def test_a_callback_of_another_issuer_is_refused(tmp_path: Path) -> None:
    """RFC 9207: mix-up."""
    async with login_stage(tmp_path) as stage:
        browser = stage.browser()
        back = await callback(stage, browser)

        answer = await browser.ask(back.partition("&iss=")[0] + "&iss=https%3A%2F%2Fevil.example")

    assert answer.status == 502
    assert SESSION_COOKIE not in browser.cookies["login.example.com"]


async def test_cookies_are_for_the_console_alone(tmp_path: Path) -> None:
    """Host-only, secure, unreadable for scripts; the session's id at rest is a hash."""
    async with login_stage(tmp_path) as stage:
        browser = stage.browser()
        back = await callback(stage, browser)
        answer = await browser.ask(back)
        session = browser.cookies["login.example.com"][SESSION_COOKIE]
        rows = stage.console.store.database.read("SELECT id, identity FROM login_session")

    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-")
    assert {"Path=/", "Secure", "HttpOnly", "SameSite=Lax"} <= {part.strip() for part in cookie.split(";")}
    assert "Domain" not in cookie
    assert session.encode() not in rows[0]["id"]
    assert b"ada@example.com" not in rows[0]["identity"]
    assert BROWSER_COOKIE.startswith("__Host-")


async def test_a_login_does_not_adopt_a_session_that_somebody_planted(tmp_path: Path) -> None:
    """Session fixation."""
    async with login_stage(tmp_path) as stage:
        browser = stage.browser()
        browser.cookies["login.example.com"] = {SESSION_COOKIE: "p" * 43, BROWSER_COOKIE: "short"}
        await stage.sign_in(stage.wiki, browser)

    assert browser.cookies["login.example.com"][SESSION_COOKIE] != "p" * 43
    assert browser.cookies["login.example.com"][BROWSER_COOKIE] != "short"


async def test_a_session_ends_for_good(tmp_path: Path) -> None:
    async with login_stage(tmp_path) as stage:
        browser = stage.browser()
        await stage.sign_in(stage.wiki, browser)
        stage.clock.jump(SESSION_LIFE.total_seconds())

        assert (await begun(stage, browser)).startswith(stage.provider.issuer)


async def test_who_the_provider_does_not_know_any_more_logs_in_anew(tmp_path: Path) -> None:
    """Authenticate 4.2 step 3: the provider is asked again after a minute; one that forgot everybody says no."""
    async with login_stage(tmp_path) as stage:
        browser, key = stage.browser(), await stage.server_key()
        await stage.sign_in(stage.wiki, browser)
        stage.clock.jump(59)
        soon = await browser.ask(stage.wiki.ask(key, stage.now))
        forget(stage)
        stage.clock.jump(2)
        later = await browser.ask(stage.wiki.ask(key, stage.now))

    assert soon.leads_to.startswith("https://app.wiki.example.com/")
    assert later.leads_to.startswith(stage.provider.issuer)


def forget(stage: Stage) -> None:
    """Put tokens into every session that the provider never gave."""
    sessions = Sessions(stage.console.store.database)
    for row in stage.console.store.database.read("SELECT id FROM login_session"):
        session = sessions.get(row["id"], stage.now)
        assert session is not None
        identity = session.identity
        gone = replace(identity, token=replace(identity.token, access_token=Secret("gone"), refresh_token=Secret("")))
        sessions.renew(session, gone, session.checked_at)


async def test_a_session_outlives_the_tokens_of_the_provider_by_refreshes(tmp_path: Path) -> None:
    """Rotating ones: each is used once."""
    async with login_stage(tmp_path) as stage:
        browser, key = stage.browser(), await stage.server_key()
        await stage.sign_in(stage.wiki, browser)
        landed = []
        for _ in range(3):
            stage.clock.jump(1800)
            landed.append((await browser.ask(stage.wiki.ask(key, stage.now))).leads_to.partition("?")[0])

    assert landed == ["https://app.wiki.example.com/.pomerium/callback/"] * 3


async def test_while_the_provider_is_away_nobody_is_let_in(tmp_path: Path) -> None:
    """Fail closed, with words that say whom to wait for."""
    async with login_stage(tmp_path) as stage:
        browser, key = stage.browser(), await stage.server_key()
        await stage.sign_in(stage.wiki, browser)
        await stage.running.aclose()
        stage.clock.jump(120)

        known = await browser.ask(stage.wiki.ask(key, stage.now))
        stage.clock.jump(3600)
        new = await stage.browser().ask(stage.wiki.ask(key, stage.now))

    assert known.status == 503
    assert "does not answer" in known.text
    assert new.status in (302, 503)  # what discovery said is still known, so the browser may find out by itself


async def test_another_provider_signs_everybody_out(tmp_path: Path) -> None:
    """Its subjects may be other people."""
    async with login_stage(tmp_path) as stage:
        browser = stage.browser()
        await stage.sign_in(stage.wiki, browser)
        provider = stage.settings.provider
        other = checked_settings(
            provider="oidc",
            url=provider.url,
            client_id=provider.client_id,
            client_secret=provider.client_secret,
            scopes=("openid", "email"),
            public_url=LOGIN,
        )
        manage.set_login(stage.console.store, other, stage.now)

        assert (await begun(stage, browser)).startswith(stage.provider.issuer)


async def test_a_script_is_told_and_not_redirected(tmp_path: Path) -> None:
    """Authenticate 2.3."""
    async with login_stage(tmp_path) as stage:
        url = stage.wiki.ask(await stage.server_key(), stage.now)
        headers = {"X-Requested-With": "XMLHttpRequest", "Accept": "application/json"}

        answer = await stage.browser().ask(url, headers=headers)

    assert answer.status == 401
    assert answer.headers["Content-Type"].startswith("application/json")
