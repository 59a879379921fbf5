"""Signing out, by those who may and by those who would make others do it (authenticate 8.1, 8.2, G-8)."""

import html
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from pomerium_agent.config.login import SameSite
from pomerium_agent.errors import DatabrokerUnavailable, RecordNotFound
from pomerium_agent.handoff.signed import signed_url
from pomerium_agent.idp import ProviderSettings
from pomerium_agent.idp.naming import with_id
from pomerium_agent.runtime.health import Health
from pomerium_agent.sessions.handle import Handle, sign_handle
from pomerium_agent.sessions.identity import resolve
from pomerium_agent.sessions.live import open_sessions
from pomerium_agent.settings import Secret
from tests.fakes import session_records as records
from tests.fakes.clock import settle
from tests.unit.authenticate.stage import (
    APP,
    AUTH,
    AUTH_COOKIE,
    KEY,
    SESSION_COOKIE,
    WIKI,
    Answer,
    Browser,
    Scene,
    hosted,
    scene,
)

HERE, HOME = f"https://{APP}/.pomerium/sign_out", f"https://{AUTH}/.pomerium/sign_out"
SIGNED_OUT = f"https://{AUTH}/.pomerium/signed_out"
BY_HAND = {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
OWN_LINK = {**BY_HAND, "Sec_Fetch_Site": "same-origin"}


async def signed_in(stage: Scene, browser: Browser | None = None) -> str:
    """Somebody with a session on the route's host; its id."""
    who = browser or stage.browser
    await who.get(await stage.to_callback(stage.sign_in_url(who), who))
    return who.handle(APP).id


async def is_over(stage: Scene, id: str) -> bool:
    """On this replica: what it shares with others is the store, and each follows that."""
    try:
        await stage.store.session(id)
    except RecordNotFound:
        await stage.desk.sessions.ready_for(Handle(id=id))
    else:
        return False
    return resolve(stage.desk.sessions, id, stage.clock.now()) is None


def asks(answer: Answer) -> bool:
    """Whether it is the page that asks first, and nothing has happened."""
    return answer.status == 200 and "Sign out?" in answer.text and not answer.cookies


def onward(answer: Answer) -> str:
    """Where the page leads that follows a form."""
    assert answer.status == 200
    url = answer.headers["Refresh"].partition("url=")[2]
    assert html.escape(url) in answer.text
    return url


async def test_signing_out_ends_the_session_and_leads_through_every_place_where_it_was_known(tmp_path: Path) -> None:
    """8.1, 8.2, N-38, N-40: the record first, tokens given back, then authenticate host, provider and back."""
    async with scene(tmp_path) as stage:
        id = await signed_in(stage)
        stolen = stage.browser.cookie(APP, SESSION_COOKIE)

        left = await stage.browser.get(HERE, **OWN_LINK)
        assert left.status == 302
        assert await is_over(stage, id)
        assert [record.id for record in stage.store.puts[-1] if record.data] == [id]  # the tombstone says whose it was
        assert not stage.browser.cookie(APP, SESSION_COOKIE)
        assert left.location.startswith(HOME)
        assert {asked.form["token"] for asked in stage.idp.of("revoke")} <= {"access-1", "refresh-1"}
        assert stage.idp.of("revoke")

        home = await stage.browser.get(left.location)
        assert home.status == 302
        assert not stage.browser.cookie(AUTH, AUTH_COOKIE)
        assert home.location.startswith(f"{stage.idp.origin}/logout?")
        assert home.query["post_logout_redirect_uri"] == SIGNED_OUT
        assert home.query["id_token_hint"].count(".") == 2

        page = await stage.browser.get(SIGNED_OUT)
        assert "You are signed out" in page.text

        stage.browser.jar[APP, "/", SESSION_COOKIE] = stolen
        stranger = await stage.browser.get(f"https://{APP}/.pomerium/")
        assert "You are not signed in" in stranger.text


async def test_the_old_handle_is_refused_on_all_replicas(tmp_path: Path) -> None:
    """N-40, N-38: each follows the store; nobody calls anybody."""
    async with scene(tmp_path) as stage, open_sessions(stage.store, stage.clock, Health()) as other:
        await signed_in(stage)
        handle = stage.browser.handle(APP)
        await other.ready_for(handle)
        assert resolve(other, handle, stage.clock.now()) is not None
        await stage.browser.get(HERE, **OWN_LINK)
        await settle()
        assert resolve(other, handle, stage.clock.now()) is None


async def test_no_token_is_readable_on_the_way(tmp_path: Path) -> None:
    """N-33, N-43: the hint is boxed; what the provider wants to see is in the redirect to it, and on no page."""
    async with scene(tmp_path) as stage:
        id = await signed_in(stage)
        raw = (await stage.store.session(id)).id_token.raw
        left = await stage.browser.get(HERE, **OWN_LINK)

        assert raw
        assert raw not in left.location
        assert raw.split(".")[1] not in left.location
        assert id not in left.location

        id = await signed_in(stage)
        raw = (await stage.store.session(id)).id_token.raw
        page = await stage.browser.get(HOME, method="POST", **OWN_LINK)
        for part in raw.split("."):
            assert part not in page.text
            assert part not in str(page.headers)
        there = await stage.browser.get(onward(page))
        assert there.query["id_token_hint"] == raw
        assert await is_over(stage, id)


CROSS = {"Sec_Fetch_Site": "cross-site"}
FORGED = [
    ("GET", {**BY_HAND, **CROSS}),  # a link
    ("GET", {**CROSS, "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"}),
    ("GET", {**CROSS, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}),
    ("GET", {**BY_HAND, "Sec_Fetch_Site": "same-site"}),  # a neighbour
    ("POST", {**BY_HAND, **CROSS}),
    ("POST", {**BY_HAND, "Sec_Fetch_Site": "same-site", "Origin": f"https://{APP}"}),
    ("GET", {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"}),  # in a wiki
    ("GET", {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}),
    ("GET", {**BY_HAND, "Sec_Purpose": "prefetch;prerender"}),  # nobody pressed Enter yet
    ("GET", {**OWN_LINK, "Purpose": "prefetch"}),
    # Browsers that do not send Sec-Fetch-Site.
    ("GET", {}),
    ("GET", {"Origin": f"https://{APP}"}),
    ("GET", {"Referer": f"https://{APP}/"}),
    ("POST", {}),
    ("POST", {"Origin": "null"}),
    ("POST", {"Origin": "https://evil.example"}),
    ("POST", {"Origin": f"http://{APP}"}),
    ("POST", {"Origin": f"https://{APP}.evil.example"}),
    ("POST", {"Origin": f"https://{APP}:8443"}),
    ("POST", {"Referer": "https://evil.example/"}),
    ("POST", {"Referer": f"https://{APP}.evil.example/"}),
    ("POST", {"Referer": f"https://evil.example/https://{APP}/"}),
    ("POST", {"Origin": "https://evil.example", "Referer": f"https://{APP}/"}),
]


@pytest.mark.parametrize(("method", "headers"), FORGED)
async def test_nobody_is_signed_out_unasked(tmp_path: Path, method: str, headers: dict[str, str]) -> None:
    """N-41: links, forms, pictures and frames of others, of old browsers too, get a question."""
    async with scene(tmp_path) as stage:
        id = await signed_in(stage)
        home = {name: value.replace(APP, AUTH) for name, value in headers.items()}
        assert asks(await stage.browser.get(HERE, method=method, **headers))
        assert asks(await stage.browser.get(HOME, method=method, **home))
        assert not await is_over(stage, id)


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", BY_HAND),
        ("GET", OWN_LINK),
        ("POST", OWN_LINK),
        ("POST", {"Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors", "Sec_Fetch_Dest": "empty"}),
        ("POST", {"Origin": f"https://{APP}"}),
        ("POST", {"Origin": f"HTTPS://{APP}".lower()}),
        ("POST", {"Referer": f"https://{APP}/.pomerium/sign_out"}),
        ("POST", {"Referer": f"https://{APP}"}),
    ],
)
async def test_whoever_means_it_is_signed_out(tmp_path: Path, method: str, headers: dict[str, str]) -> None:
    async with scene(tmp_path) as stage:
        id = await signed_in(stage)
        answer = await stage.browser.get(HERE, method=method, **headers)
        assert answer.sets(SESSION_COOKIE)
        assert await is_over(stage, id)
        if method == "POST":  # no redirect: Chromium would hold all that follow to the policy of the form's page
            assert onward(answer).startswith(HOME)


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_no_other_method_signs_out(tmp_path: Path, method: str) -> None:
    async with scene(tmp_path) as stage:
        id = await signed_in(stage)
        assert (await stage.browser.get(HERE, method=method, **OWN_LINK)).status == 405
        assert not await is_over(stage, id)


async def test_a_link_of_somebody_else_asks_first(tmp_path: Path) -> None:
    """N-41: whoever signs out gets a signed link, and may lay it before others; it is for their session alone."""
    async with scene(tmp_path) as stage:
        victim = await signed_in(stage)
        mallory = stage.another_browser()
        await signed_in(stage, mallory)
        link = (await mallory.get(HERE, **OWN_LINK)).location

        laid_before = await stage.browser.get(link, **BY_HAND, **{})
        assert asks(laid_before)
        assert not await is_over(stage, victim)
        assert stage.browser.cookie(AUTH, AUTH_COOKIE)

        without = signed_url(HOME, [], KEY, stage.clock.now())  # signed by us, and for no session
        assert asks(await stage.browser.get(without))
        own = await mallory.get(link)
        assert own.location.startswith(stage.idp.origin)

        agreed = await stage.browser.get(link, method="POST", **OWN_LINK)  # what the question's form does
        assert agreed.status == 200
        assert await is_over(stage, victim)
        assert (await stage.browser.get(onward(agreed))).location.startswith(stage.idp.origin)


@pytest.mark.parametrize("spoil", ["pomerium_signature=", "pomerium_issued=1", "pomerium_sign_out_hint=x"])
async def test_a_link_that_was_changed_or_is_old_does_nothing(tmp_path: Path, spoil: str) -> None:
    """N-4, N-41."""
    async with scene(tmp_path) as stage:
        id = await signed_in(stage)
        link = (await stage.browser.get(HERE, **OWN_LINK)).location
        name = spoil.partition("=")[0]
        changed = re.sub(rf"(?<=[?&]){name}=[^&]*", spoil, link)
        assert changed != link
        assert (await stage.browser.get(changed)).status == 400
        await stage.clock.advance(361)
        assert (await stage.browser.get(link)).status == 400
        assert stage.browser.cookie(AUTH, AUTH_COOKIE)
        assert await is_over(stage, id)  # that was done at the route, before


FOREIGN = [
    "https://evil.example/",
    "//evil.example/",
    "/\\evil.example",
    "https:evil.example",
    "https:///evil.example",
    "https://evil.example\\@app.example.com/",
    f"https://{APP}@evil.example/",
    f"https://{APP}:x@evil.example/",
    f"https://{APP}.evil.example/",
    f"https://{APP}:443.evil.example/",
    f"https://{APP}:99999/",
    f"https://{APP}%2eevil.example/",
    f"http://{APP}/",
    f"https://{APP}\t.evil.example/",
    "javascript:alert(1)",
    "data:text/html,x",
    "",
]


@pytest.mark.parametrize("target", FOREIGN)
@pytest.mark.parametrize("allowed", [False, True])
async def test_nobody_is_led_to_a_foreign_place(tmp_path: Path, target: str, allowed: bool) -> None:
    """N-41: neither on the flag's word nor on a signature's, nor by way of the question."""
    async with scene(tmp_path, login={"any_sign_out_redirect": allowed}) as stage:
        await signed_in(stage)
        asked = f"?pomerium_redirect_uri={quote(target, safe='')}"
        left = await stage.browser.get(HERE + asked, **OWN_LINK)
        assert "pomerium_redirect_uri" not in left.query
        home = await stage.browser.get(left.location)
        assert home.query["post_logout_redirect_uri"] == SIGNED_OUT

        signed = signed_url(HOME, [("pomerium_redirect_uri", target)], KEY, stage.clock.now())
        assert (await stage.browser.get(signed)).query["post_logout_redirect_uri"] == SIGNED_OUT

        agreed = await stage.browser.get(HOME + asked, method="POST", **OWN_LINK)
        home = await stage.browser.get(onward(agreed))
        assert home.query["post_logout_redirect_uri"] == SIGNED_OUT

        stage.browser.jar[AUTH, "/", "_pomerium_signed_out_redirect_uri"] = target
        if target and not set(target) & set('\t"\\,; '):
            assert (await stage.browser.get(SIGNED_OUT)).status == 200


async def test_a_page_of_this_cluster_is_the_end_where_that_is_allowed(tmp_path: Path) -> None:
    """8.1: by the flag; else what is configured, wherever that is."""
    wiki = f"https://{WIKI}/bye?x=1"
    asked = f"{HERE}?pomerium_redirect_uri={quote(wiki, safe='')}"
    async with scene(tmp_path, login={"any_sign_out_redirect": True}) as stage:
        await signed_in(stage)
        left = await stage.browser.get(asked, **OWN_LINK)
        assert (await stage.browser.get(left.location)).query["post_logout_redirect_uri"] == wiki

        stage.change_login(any_sign_out_redirect=False, sign_out_url="https://www.example.org/bye")
        left = await stage.browser.get(asked, **OWN_LINK)
        home = await stage.browser.get(left.location)
        assert home.query["post_logout_redirect_uri"] == "https://www.example.org/bye"


async def test_without_a_provider_to_sign_out_at_it_ends_here(tmp_path: Path) -> None:
    """8.2, N-36: one that cannot, or is down, or hangs up, keeps nobody signed in."""
    async with scene(tmp_path) as stage:
        stage.idp.document_changes["end_session_endpoint"] = None
        await signed_in(stage)
        left = await stage.browser.get(HERE, **OWN_LINK)
        assert (await stage.browser.get(left.location)).location == SIGNED_OUT

        id = await signed_in(stage)
        stage.idp.fail("revoke", 500)
        left = await stage.browser.get(HERE, **OWN_LINK)
        assert left.status == 302
        assert await is_over(stage, id)


async def test_a_provider_with_one_place_to_return_to_is_helped_by_a_cookie(tmp_path: Path) -> None:
    """8.2, 3.8: kept five minutes, and only a place of ours or the configured one is gone on to."""
    async with scene(tmp_path, login={"sign_out_url": "https://www.example.org/bye"}) as stage:
        stage.browser.jar[AUTH, "/", "_pomerium_signed_out_redirect_uri"] = "https://www.example.org/bye"
        page = await stage.browser.get(SIGNED_OUT)
        assert (page.status, page.location) == (302, "https://www.example.org/bye")
        assert not stage.browser.cookie(AUTH, "_pomerium_signed_out_redirect_uri")


async def test_every_session_of_the_browser_ends_whosever_provider_it_is_of(tmp_path: Path) -> None:
    """N-40: a host may have sessions of a route's own provider, and cookies may be there twice."""
    async with scene(tmp_path) as stage:
        other = with_id(
            ProviderSettings(type="oidc", url="https://other.example", client_id="o", client_secret=Secret("s"))
        )
        await stage.store.put([records.session("of-other", "ada", idp_id=other.id), records.session("bare", "ada")])
        handle = sign_handle(Handle(id="of-other", user_id="ada", idp_id=other.id), KEY)
        second = sign_handle(Handle(id="bare", user_id="ada", idp_id=stage.idp_id), KEY)
        answer = await stage.browser.get(
            HERE, Cookie=f"{SESSION_COOKIE}={handle}; {SESSION_COOKIE}={second}; {SESSION_COOKIE}=x.y.z", **OWN_LINK
        )
        assert answer.status == 302
        assert await is_over(stage, "of-other")
        assert await is_over(stage, "bare")


async def test_a_forged_handle_ends_nothing(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        id = await signed_in(stage)
        forger = stage.another_browser()
        for token in (sign_handle(Handle(id=id), bytes(32)), f"{'a' * 9}.b.c", id):
            forger.jar[APP, "/", SESSION_COOKIE] = token
            assert (await forger.get(HERE, **OWN_LINK)).status == 302
        assert not await is_over(stage, id)


async def test_a_service_account_is_not_ended_by_signing_out(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        await stage.store.put([records.account("robot", "robot-user")])
        stage.browser.jar[APP, "/", SESSION_COOKIE] = sign_handle(Handle(id="robot", user_id="robot-user"), KEY)
        answer = await stage.browser.get(HERE, **OWN_LINK)
        assert answer.sets(SESSION_COOKIE)
        assert not stage.browser.cookie(APP, SESSION_COOKIE)
        assert resolve(stage.desk.sessions, "robot", stage.clock.now()) is not None


async def test_whoever_stands_for_somebody_else_ends_their_own_session(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        await stage.store.put([records.session("target", "grace"), records.session("own", "ada", as_session="target")])
        stage.browser.jar[APP, "/", SESSION_COOKIE] = sign_handle(Handle(id="own", idp_id=stage.idp_id), KEY)
        await stage.browser.get(HERE, **OWN_LINK)
        assert await is_over(stage, "own")
        assert not await is_over(stage, "target")


async def test_while_the_store_is_away_nobody_is_told_that_it_is_over(tmp_path: Path) -> None:
    """N-30, N-40: no cookie goes before the record does."""
    async with scene(tmp_path) as stage:
        await signed_in(stage)
        stage.store.refuses_writes = True
        answer = await stage.browser.get(HERE, **OWN_LINK)
        assert (answer.status, answer.cookies) == (500, [])
        with pytest.raises(DatabrokerUnavailable):
            await stage.store.put([])


async def test_the_hosted_flow_ends_the_record_and_goes_to_the_hosted_service(tmp_path: Path) -> None:
    """8.1, N-40: which cannot read our hint, so there is none."""
    async with hosted(tmp_path, sign_out_url="https://www.example.org/bye") as (stage, _):
        await stage.store.put([records.session("s", "ada", id_token="a.b.c", token="access")])
        stage.browser.jar[APP, "/", SESSION_COOKIE] = sign_handle(Handle(id="s", idp_id=stage.idp_id), KEY)
        left = await stage.browser.get(HERE, **OWN_LINK)

        assert await is_over(stage, "s")
        assert left.location.startswith("https://login.example.net/.pomerium/sign_out?")
        assert left.query.keys() == {
            "pomerium_redirect_uri",
            "pomerium_idp_id",
            "pomerium_issued",
            "pomerium_expiry",
            "pomerium_signature",
        }
        assert left.query["pomerium_redirect_uri"] == "https://www.example.org/bye"
        assert stage.idp.asked == []  # the tokens are not ours


@pytest.mark.parametrize("same_site", [SameSite.UNSET, SameSite.LAX, SameSite.NONE])
async def test_the_cookie_is_cleared_as_it_was_set(tmp_path: Path, same_site: SameSite) -> None:
    """N-26: otherwise browsers keep it."""
    async with scene(tmp_path, login={"cookie_same_site": same_site, "cookie_domain": "example.com"}) as stage:
        set_by = (await stage.browser.get(await stage.to_callback(stage.sign_in_url()))).cookies[0]
        cleared = (await stage.browser.get(HERE, **OWN_LINK)).cookies[0]

        def kept(cookie: str) -> list[str]:
            return [part for part in cookie.split("; ")[1:] if not part.startswith(("Expires", "Max-Age"))]

        assert kept(set_by) == kept(cleared)
        assert "Max-Age=0" in cleared
        assert cleared.startswith(f"{SESSION_COOKIE}=;")


async def test_a_session_of_a_wildcard_host_is_signed_out_there(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        await stage.store.put([records.session("s", "ada")])
        host = "a.apps.example.com:8443"
        stage.browser.jar[host, "/", SESSION_COOKIE] = sign_handle(Handle(id="s", idp_id=stage.idp_id), KEY)
        answer = await stage.browser.get(f"https://{host}/.pomerium/sign_out", **OWN_LINK)
        assert urlsplit(answer.location).netloc == AUTH
        assert await is_over(stage, "s")


async def test_the_portal_being_off_leaves_a_way_to_sign_in_again(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        page = await stage.browser.get(f"https://{APP}/.pomerium/signed_out")
        assert 'href="/.pomerium/routes"' in page.text
        stage.site.set(replace(stage.site.value, login=replace(stage.site.value.login, portal=False)))
        for path in ("signed_out", ""):
            page = await stage.browser.get(f"https://{APP}/.pomerium/{path}")
            assert 'href="/.pomerium/user"' in page.text
