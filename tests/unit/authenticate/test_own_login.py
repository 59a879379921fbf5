"""Logging in by our own pages: from a host to the provider and back, and what must not work (authenticate 5)."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from structlog.testing import capture_logs

from pomerium_agent.config.login import SameSite
from pomerium_agent.handoff.box import close_box, encode
from pomerium_agent.handoff.query import as_pairs, parse_query
from pomerium_agent.handoff.signed import sign_pairs, signed_url, verify_signed_url
from pomerium_agent.sessions.handle import Handle, sign_handle
from tests.fakes.hostile_provider import LEAVE_OUT
from tests.unit.authenticate.stage import (
    APP,
    AUTH,
    AUTH_COOKIE,
    KEY,
    LOGIN_COOKIE,
    OTHER_KEY,
    SESSION_COOKIE,
    WANTED,
    WIKI,
    scene,
)


async def test_a_login_ends_at_the_page_that_was_wanted(tmp_path: Path) -> None:
    """5.1 to 5.3: one Put with both records (N-16), tokens, claims, audience; the cookie names the session (N-17)."""
    async with scene(tmp_path) as stage:
        landed = await stage.browser.get(await stage.to_callback(stage.sign_in_url()))

        assert (landed.status, landed.location) == (302, WANTED)
        assert landed.headers["x-pomerium-intercepted-response"] == "true"
        handle = stage.browser.handle(APP)
        session = await stage.store.session(handle.id)
        assert len(stage.store.puts) == 1
        assert (handle.user_id, handle.idp_id, handle.issuer) == ("ada", stage.idp_id, AUTH)
        assert handle.audience == (AUTH, APP)
        assert (session.user_id, session.idp_id, list(session.audience)) == ("ada", stage.idp_id, [AUTH, APP])
        assert session.oauth_token.access_token == "access-1"
        assert session.oauth_token.refresh_token == "refresh-1"
        assert session.id_token.subject == "ada"
        assert session.expires_at.ToSeconds() - session.issued_at.ToSeconds() == 14 * 3600
        assert list(session.claims["groups"]) == ["eng"]
        user = await stage.store.user("ada")
        assert user is not None
        assert (user.name, user.email) == ("Ada Lovelace", "ada@userinfo.example")
        assert list(user.claims["given_name"]) == ["Ada"]
        assert (
            handle.databroker_record_version
            == (await stage.store.get("type.googleapis.com/session.Session", handle.id)).version
        )


async def test_neither_a_login_nor_its_failure_leaves_a_secret_in_the_log(tmp_path: Path) -> None:
    """N-33: tokens, code, what is in URLs, cookies; of a login, its replay, and one that the provider breaks."""
    async with scene(tmp_path) as stage:
        with capture_logs() as logs:
            url = await stage.to_callback(stage.sign_in_url())
            landed, again = await stage.browser.get(url), await stage.browser.get(url)
            lost = await stage.at_provider(stage.sign_in_url(browser := stage.another_browser()), browser)
            stage.idp.fail("/token", 400, {"error": "invalid_grant", "error_description": "access-1 refresh-1"})
            failed = await browser.get(lost.replace("code=code", "code=the-code"))
        session = await stage.store.session(stage.browser.handle(APP).id)

    assert [landed.status, again.status, failed.status] == [302, 400, 400]
    said = json.dumps(logs, default=str)
    assert "signed in with a provider" in said
    assert said.count("login page refused") == 2
    tokens = (session.oauth_token.access_token, session.oauth_token.refresh_token, session.id_token.raw)
    sent = [value for each in (url, lost) for value in urlsplit(each).query.replace("=", "&").split("&")]
    secrets = {
        stage.idp.secret,
        "the-code",
        *tokens,
        *session.id_token.raw.split("."),
        *stage.browser.jar.values(),
        *browser.jar.values(),
        *(value for value in sent if len(value) > 40),
    }
    assert len(secrets) > 12
    assert [secret for secret in secrets if secret in said] == []


async def test_who_is_signed_in_already_goes_straight_to_the_next_host(tmp_path: Path) -> None:
    """5.1, 2 and 5: the session of the authenticate host, with its provider; nobody asks the provider again."""
    async with scene(tmp_path) as stage:
        await stage.browser.get(await stage.to_callback(stage.sign_in_url()))
        asked = len(stage.idp.asked)

        over = await stage.browser.get(stage.sign_in_url(wanted=f"https://{WIKI}/"))
        landed = await stage.browser.get(over.location)

        assert over.sets(AUTH_COOKIE)
        assert landed.location == f"https://{WIKI}/"
        assert stage.browser.handle(WIKI).id == stage.browser.handle(APP).id
        assert len(stage.idp.asked) == asked
        assert await stage.store.count() == 1


async def test_a_session_of_another_provider_or_one_that_is_over_does_not_count(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        await stage.browser.get(await stage.to_callback(stage.sign_in_url()))
        stage.clock.jump(14 * 3600 + 1)

        answer = await stage.browser.get(stage.sign_in_url())

        assert answer.location.startswith(stage.idp.origin)
        assert stage.browser.cookie(AUTH, AUTH_COOKIE) == ""  # cleared (4.2, 4a)


async def test_a_service_account_is_nobody_who_logged_in(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.browser.jar[AUTH, "/", AUTH_COOKIE] = sign_handle(Handle(id="robot", user_id="r"), KEY)

        assert (await stage.browser.get(stage.sign_in_url())).location.startswith(stage.idp.origin)


async def test_a_store_that_is_away_is_no_logout(tmp_path: Path) -> None:
    """N-30: who may be signed in is not sent to the provider, and nobody is let in unchecked."""
    async with scene(tmp_path) as stage:
        await stage.browser.get(await stage.to_callback(stage.sign_in_url()))
        written = stage.browser.handle(APP)
        later = replace(written, id="written elsewhere", databroker_record_version=10**6)
        url = stage.sign_in_url()
        stage.browser.jar[AUTH, "/", AUTH_COOKIE] = sign_handle(later, KEY)
        stage.store.away = True

        answer = await stage.browser.get(url)

        assert answer.status == 500
        assert stage.browser.cookie(AUTH, AUTH_COOKIE)


async def test_nobody_is_let_in_while_nobody_can_tell_whether_it_is_the_first_time(tmp_path: Path) -> None:
    """N-15, N-30: and the same callback works when the store is back."""
    async with scene(tmp_path) as stage:
        url = await stage.to_callback(stage.sign_in_url())
        stage.store.away = True
        refused = await stage.browser.get(url)
        stage.store.away = False
        landed = await stage.browser.get(url)

        assert (refused.status, refused.cookies) == (500, [])
        assert landed.location == WANTED


async def test_proof_key_and_nonce_are_sent_and_checked(tmp_path: Path) -> None:
    """N-23."""
    async with scene(tmp_path) as stage:
        answer = await stage.browser.get(stage.sign_in_url())
        sent = answer.query
        assert (sent["code_challenge_method"], len(sent["code_challenge"])) == ("S256", 43)
        assert sent["redirect_uri"] == f"https://{AUTH}/oauth2/callback"
        stage.idp.nonce = "of another login"

        back = await stage.browser.get(f"https://{AUTH}/oauth2/callback?code=code&state={sent['state']}")

        assert back.status == 401
        assert not back.sets(AUTH_COOKIE)
        assert await stage.store.count() == 0
        assert stage.idp.of("/token")[0].form["code_verifier"]


async def test_two_logins_in_one_browser_do_not_meet(tmp_path: Path) -> None:
    """N-22: the second begins before the first returns."""
    async with scene(tmp_path) as stage:
        first = await stage.browser.get(stage.sign_in_url())
        second = await stage.browser.get(stage.sign_in_url(wanted=f"https://{WIKI}/"))
        for begun in (second, first):
            stage.idp.codes.add("code")
            stage.idp.nonce = begun.query["nonce"]
            back = await stage.browser.get(f"https://{AUTH}/oauth2/callback?code=code&state={begun.query['state']}")
            assert back.status == 302, back.text
            over = await stage.browser.get(back.location)
            await stage.browser.get(over.location)

        assert stage.browser.cookie(APP, SESSION_COOKIE)
        assert stage.browser.cookie(WIKI, SESSION_COOKIE)
        assert not [name for _, _, name in stage.browser.jar if "pkce" in name]


async def test_a_state_works_once(tmp_path: Path) -> None:
    """N-22: also for somebody who kept the cookies."""
    async with scene(tmp_path) as stage:
        back = await stage.at_provider(stage.sign_in_url())
        kept = dict(stage.browser.jar)
        assert (await stage.browser.get(back)).status == 302
        without = await stage.browser.get(back)
        stage.browser.jar.update(kept)
        stage.idp.codes.add("code")
        again = await stage.browser.get(back)

        assert (without.status, again.status) == (400, 400)
        assert "already used" in again.text
        assert await stage.store.count() == 1


async def test_a_state_from_another_browser_is_refused(tmp_path: Path) -> None:
    """N-22: whoever gets somebody to open their own half of a login signs nobody in."""
    async with scene(tmp_path) as stage:
        mallory, victim = stage.another_browser(), stage.browser
        back = await stage.at_provider(stage.sign_in_url(mallory), mallory)
        await victim.get(stage.sign_in_url())  # has cookies of a login of their own

        answer = await victim.get(back)

        assert answer.status == 400
        assert "cookie" in answer.text
        assert not answer.sets(AUTH_COOKIE)
        assert await stage.store.count() == 0


async def test_a_login_that_took_too_long_can_begin_again(tmp_path: Path) -> None:
    """5.2: five minutes, and a link back to what was wanted."""
    async with scene(tmp_path) as stage:
        back = await stage.at_provider(stage.sign_in_url())
        stage.clock.jump(301)

        answer = await stage.browser.get(back)

        assert answer.status == 400
        assert "expired" in answer.text
        assert WANTED.replace("&", "&amp;") in answer.text
        assert "pkce" not in str([name for _, _, name in stage.browser.jar])


@pytest.mark.parametrize("spoil", ["", "A", "!", "0" * 20_000])
async def test_a_state_that_is_not_ours_is_refused(tmp_path: Path, spoil: str) -> None:
    async with scene(tmp_path) as stage:
        await stage.browser.get(stage.sign_in_url())

        answer = await stage.browser.get(f"https://{AUTH}/oauth2/callback?code=code&state={spoil}")

        assert (answer.status, answer.cookies) == (400, [])


@pytest.mark.parametrize(
    ("error", "status"), [("access_denied", 401), ("unauthorized_client", 401), ("invalid_scope", 400)]
)
async def test_what_the_provider_refuses_is_told(tmp_path: Path, error: str, status: int) -> None:
    """5.2: and nothing that it says can be anything but text."""
    async with scene(tmp_path) as stage:
        state = urlsplit(await stage.at_provider(stage.sign_in_url())).query.partition("state=")[2]
        said = quote("<script>alert(1)</script>")

        answer = await stage.browser.get(
            f"https://{AUTH}/oauth2/callback?error={error}&error_description={said}&state={state}"
        )

        assert answer.status == status
        assert error in answer.text
        assert "<script>alert" not in answer.text
        assert WANTED.replace("&", "&amp;") in answer.text


async def test_nobody_puts_words_into_the_mouth_of_the_provider(tmp_path: Path) -> None:
    """A link that anybody can write shows a known code at most."""
    async with scene(tmp_path) as stage:
        mallory = stage.another_browser()
        state = urlsplit(await stage.at_provider(stage.sign_in_url(mallory), mallory)).query.partition("state=")[2]
        for error in ("access_denied", "Call%20555"):
            answer = await stage.browser.get(
                f"https://{AUTH}/oauth2/callback?error={error}&error_description=Call%20555&state={state}"
            )
            assert "555" not in answer.text


@pytest.mark.parametrize("body", [b"\xff=\xff", b"%zz", b"code=c&state=%ff", b"&;=;&", b"x" * 70_000])
async def test_a_form_in_any_form_is_answered(tmp_path: Path, body: bytes) -> None:
    async with scene(tmp_path) as stage:
        for kind in ("application/x-www-form-urlencoded; charset=nonsense", "multipart/form-data", "x"):
            answer = await stage.browser.get(
                f"https://{AUTH}/oauth2/callback", method="POST", data=body, Content_Type=kind
            )
            assert answer.status in (400, 413)


async def test_a_callback_without_a_code_is_refused(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        assert (await stage.browser.get(f"https://{AUTH}/oauth2/callback?state=x")).status == 400


async def test_a_form_post_of_the_provider_is_a_callback_too(tmp_path: Path) -> None:
    """5.2: the cookies are then sent across sites; what is in the query does not count."""
    async with scene(tmp_path) as stage:
        site = stage.site.value
        posting = replace(site.login.provider, request_params={"response_mode": "form_post"})
        stage.site.set(replace(site, providers={posting.id: posting}))
        begun = await stage.browser.get(stage.sign_in_url())
        assert all("SameSite=None" in cookie for cookie in begun.cookies)
        stage.idp.nonce = begun.query["nonce"]

        form = {"code": "code", "state": begun.query["state"]}
        back = await stage.browser.get(f"https://{AUTH}/oauth2/callback?error=access_denied", method="POST", data=form)

        assert back.status == 302, back.text


async def test_another_provider_cannot_answer(tmp_path: Path) -> None:
    """RFC 9207: the `iss` parameter."""
    async with scene(tmp_path) as stage:
        back = await stage.at_provider(stage.sign_in_url())

        answer = await stage.browser.get(f"{back}&iss=https://evil.example.net")

        assert answer.status == 401
        assert not stage.idp.of("/token")


@pytest.mark.parametrize(
    "claim", ["jti", "idp_id", "iss", "aud", "databroker_record_version", "databroker_server_version"]
)
async def test_claims_of_the_provider_never_alter_the_handle(tmp_path: Path, claim: str) -> None:
    """N-24."""
    async with scene(tmp_path) as stage:
        stage.idp.userinfo_changes = {claim: "evil"}
        await stage.browser.get(await stage.to_callback(stage.sign_in_url()))

        handle = stage.browser.handle(APP)

        assert "evil" not in repr(handle)
        assert handle.databroker_record_version < 100


async def test_a_store_that_does_not_take_the_session_gives_no_cookie(tmp_path: Path) -> None:
    """N-16."""
    async with scene(tmp_path) as stage:
        back = await stage.at_provider(stage.sign_in_url())
        stage.store.refuses_writes = True

        answer = await stage.browser.get(back)

        assert answer.status == 500
        assert not answer.sets(AUTH_COOKIE)
        assert "the store is away" not in answer.text
        stage.store.refuses_writes = False
        landed = await stage.browser.get(await stage.to_callback(stage.sign_in_url()))
        assert landed.location == WANTED


async def test_a_provider_that_is_down_is_told_and_nothing_is_broken_afterwards(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.idp.fail("openid-configuration", 503)
        down = await stage.browser.get(stage.sign_in_url(), x_request_id="req-1")

        assert (down.status, down.headers["Retry-After"]) == (503, "5")
        assert "Try again" in down.text
        assert "req-1" in down.text
        stage.idp.answers.clear()
        stage.clock.jump(60)
        back = await stage.at_provider(stage.sign_in_url())
        stage.idp.fail("token", 503)
        at_token = await stage.browser.get(back)
        assert at_token.status == 503
        assert not at_token.sets(AUTH_COOKIE)
        stage.idp.answers.clear()
        landed = await stage.browser.get(await stage.to_callback(stage.sign_in_url()))
        assert landed.location == WANTED


async def test_a_token_without_a_subject_signs_nobody_in(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.idp.id_token_changes = {"sub": LEAVE_OUT}
        answer = await stage.browser.get(await stage.at_provider(stage.sign_in_url()))

        assert answer.status == 401
        assert await stage.store.count() == 0


async def test_whoever_asks_for_data_gets_data(tmp_path: Path) -> None:
    """2.3: JSON for `Accept: application/json`, and 401 for a script that would have to log in."""
    async with scene(tmp_path) as stage:
        refused = await stage.browser.get(
            f"https://{AUTH}/oauth2/callback?code=c", Accept="application/json", x_request_id="req-7"
        )
        script = await stage.browser.get(stage.sign_in_url(), X_Requested_With="XMLHttpRequest")

        assert refused.status == 400
        assert '"Status": 400' in refused.text
        assert '"RequestID": "req-7"' in refused.text
        assert script.status == 401


@pytest.mark.parametrize(
    "part", ["pomerium_redirect_uri", "pomerium_callback_uri", "pomerium_signature", "pomerium_expiry"]
)
async def test_a_changed_sign_in_is_refused(tmp_path: Path, part: str) -> None:
    """5.1, 3: once somebody is signed in, nothing unsigned leads anywhere."""
    async with scene(tmp_path) as stage:
        await stage.browser.get(await stage.to_callback(stage.sign_in_url()))
        url = stage.sign_in_url()

        answer = await stage.browser.get(url.replace(f"{part}=", f"{part}=x", 1))

        assert answer.status == 400
        assert "Location" not in answer.headers


async def test_a_sign_in_at_the_inner_name_of_the_host_is_signed_for_the_outer_one(tmp_path: Path) -> None:
    """3.3: and for no other name."""
    async with scene(tmp_path) as stage:
        await stage.browser.get(await stage.to_callback(stage.sign_in_url()))
        inner, other = "auth.internal:8443", "auth.elsewhere"
        stage.change_login(internal_url=f"https://{inner}")
        stage.site.set(replace(stage.site.value, authenticate_hosts=frozenset({AUTH, inner, other})))
        for host in (inner, other):
            stage.browser.jar[host, "/", AUTH_COOKIE] = stage.browser.cookie(AUTH, AUTH_COOKIE)
        url = stage.sign_in_url()

        assert (await stage.browser.get(url.replace(AUTH, inner, 1))).status == 302
        assert (await stage.browser.get(url.replace(AUTH, other, 1))).status == 400


async def test_a_sign_in_signed_with_another_key_or_long_ago_is_refused(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        await stage.browser.get(await stage.to_callback(stage.sign_in_url()))
        old = stage.sign_in_url()
        stage.clock.jump(361)

        foreign = await stage.browser.get(stage.sign_in_url(key=OTHER_KEY))
        expired = await stage.browser.get(old)

        assert (foreign.status, expired.status) == (400, 400)
        assert WANTED.replace("&", "&amp;") not in foreign.text
        assert WANTED.replace("&", "&amp;") in expired.text  # it is genuine, so it may be tried again


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example.net/",
        "http://app.example.com/",
        "https://app.example.com.evil.net/",
        "https://app.example.com@evil.net/",
        "https://evil.net\\.apps.example.com/",
        "https://evil.net\\@app.example.com/",
        "//app.example.com/",
        "javascript:alert(1)//app.example.com",
        "https:/app.example.com",
        "https://app.example.com:99999/",
        "https://app.example.com\t.evil.net/",
        "",
    ],
)
async def test_nobody_is_sent_to_a_foreign_host_even_by_a_signature(tmp_path: Path, target: str) -> None:
    """N-41: redirect and callback alike."""
    async with scene(tmp_path) as stage:
        await stage.browser.get(await stage.to_callback(stage.sign_in_url()))
        callback = stage.browser.begins(APP)
        base = f"https://{AUTH}/.pomerium/sign_in"
        for redirect, back in ((target, callback), (WANTED, target or "https://app.example.com/elsewhere")):
            url = signed_url(
                base,
                [
                    ("pomerium_redirect_uri", redirect),
                    ("pomerium_callback_uri", back),
                    ("pomerium_idp_id", stage.idp_id),
                ],
                KEY,
                stage.clock.now(),
            )

            answer = await stage.browser.get(url)

            assert answer.status == 400
            assert "Location" not in answer.headers


async def test_the_callback_always_carries_the_list_of_further_hosts(tmp_path: Path) -> None:
    """N-20."""
    async with scene(tmp_path) as stage:
        url = await stage.to_callback(stage.sign_in_url())

        assert "pomerium_additional_hosts=&" in url
        verify_signed_url(url, KEY, stage.clock.now())


async def test_a_callback_in_another_browser_or_without_its_cookie_is_refused(tmp_path: Path) -> None:
    """N-15: and the one who began it can still finish it."""
    async with scene(tmp_path) as stage:
        url = await stage.to_callback(stage.sign_in_url())
        victim = stage.another_browser()
        victim.begins(APP)

        foreign = await victim.get(url)
        bare = await stage.another_browser().get(url)

        assert (foreign.status, bare.status) == (400, 400)
        assert not foreign.sets(SESSION_COOKIE)
        assert (await stage.browser.get(url)).location == WANTED


async def test_a_callback_works_once(tmp_path: Path) -> None:
    """N-15."""
    async with scene(tmp_path) as stage:
        url = await stage.to_callback(stage.sign_in_url())

        answers = await asyncio.gather(*(stage.browser.get(url) for _ in range(5)))

        assert sorted(answer.status for answer in answers) == [302, 400, 400, 400, 400]


async def test_a_callback_does_not_work_on_another_host(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        url = await stage.to_callback(stage.sign_in_url())
        stage.browser.begins(WIKI)

        answer = await stage.browser.get(url.replace(APP, WIKI, 1))

        assert answer.status == 400
        assert not answer.sets(SESSION_COOKIE)


async def test_a_callback_of_another_cluster_is_refused(tmp_path: Path) -> None:
    """Signed, and encrypted, by somebody else's key."""
    async with scene(tmp_path) as stage:
        callback = stage.browser.begins(APP)
        base, _, query = callback.partition("?")
        token = sign_handle(Handle(id="s", idp_id=stage.idp_id), OTHER_KEY).encode()
        sent = [("pomerium_redirect_uri", WANTED), ("pomerium_additional_hosts", "")]
        for signer, boxer in ((OTHER_KEY, OTHER_KEY), (KEY, OTHER_KEY), (KEY, KEY)):
            box = encode(close_box(boxer, token))
            pairs = [*parse_query(query), *as_pairs([*sent, ("pomerium_session_encrypted", box)])]

            answer = await stage.browser.get(sign_pairs(base, pairs, signer, stage.clock.now()))

            assert (answer.status, answer.cookies) == (400, [])


async def test_a_body_cannot_override_what_is_signed(tmp_path: Path) -> None:
    """N-21: the body is not read at all, and a POST is no callback."""
    async with scene(tmp_path) as stage:
        url = await stage.to_callback(stage.sign_in_url())
        evil = {"pomerium_redirect_uri": "https://evil.example.net/"}

        posted = await stage.browser.get(url, method="POST", data=evil)
        landed = await stage.browser.get(url, data=evil)

        assert posted.status == 405
        assert landed.location == WANTED


async def test_further_hosts_get_their_cookie_on_the_way(tmp_path: Path) -> None:
    """N-25: one host after the other, then the page."""
    async with scene(tmp_path) as stage:
        further = (WIKI, "x.apps.example.com")
        url = await stage.to_callback(stage.sign_in_url(additional_hosts=further))
        hops = []
        for _ in range(3):
            answer = await stage.browser.get(url)
            assert answer.status == 302, answer.text
            hops.append(urlsplit(url).netloc)
            url = answer.location

        assert hops == [APP, *further]
        assert url == WANTED
        assert len({stage.browser.handle(host).id for host in hops}) == 1


async def test_a_changed_list_of_hosts_is_refused(tmp_path: Path) -> None:
    """N-25."""
    async with scene(tmp_path) as stage:
        url = await stage.to_callback(stage.sign_in_url(additional_hosts=(WIKI,)))
        changed = await stage.browser.get(url.replace(WIKI, "x.apps.example.com"))

        assert (changed.status, changed.cookies) == (400, [])


async def test_a_chain_never_leaves_the_cluster(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        url = await stage.to_callback(stage.sign_in_url(additional_hosts=("evil.example.net",)))

        answer = await stage.browser.get(url)

        assert answer.status == 400
        assert "Location" not in answer.headers


async def test_cookies_of_16_kilobytes_twice_and_of_another_cluster_do_no_harm(tmp_path: Path) -> None:
    """A neighbour's subdomain may plant what it likes (3.8)."""
    async with scene(tmp_path) as stage:
        junk = {
            (host, path, name): value
            for host in (AUTH, APP)
            for path, name, value in (
                ("/", "big", "x" * 16_384),
                ("/.pomerium", AUTH_COOKIE, sign_handle(Handle(id="s", idp_id=stage.idp_id), OTHER_KEY)),
                ("/.pomerium", LOGIN_COOKIE, "planted"),
                ("/oauth2", "__Host-_pomerium_csrf", "A" * 43),
            )
        }
        url = stage.sign_in_url()
        stage.browser.jar = {**junk, **stage.browser.jar}

        landed = await stage.browser.get(await stage.to_callback(url))

        assert landed.location == WANTED


async def test_strict_cookies_do_not_send_browsers_round_in_circles(tmp_path: Path) -> None:
    """3.8: browsers send them only when our own page leads on; what must come back from the provider is Lax."""
    async with scene(tmp_path, login={"cookie_same_site": SameSite.STRICT}) as stage:
        begun = await stage.browser.get(stage.sign_in_url())
        stage.idp.nonce = begun.query["nonce"]
        back = await stage.browser.get(f"https://{AUTH}/oauth2/callback?code=code&state={begun.query['state']}")

        assert all("SameSite=Lax" in cookie for cookie in begun.cookies)
        assert (back.status, back.headers["Refresh"][:30]) == (200, f"0;url=https://{AUTH}/.pomer"[:30])
        over = await stage.browser.get(back.headers["Refresh"].removeprefix("0;url="))
        landed = await stage.browser.get(over.location)
        assert landed.headers["Refresh"] == f"0;url={WANTED}"
        assert any(cookie.startswith("_pomerium=") and "SameSite=Strict" in cookie for cookie in landed.cookies)


async def test_login_pages_are_on_their_host_only(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        for path in ("/.pomerium/sign_in", "/oauth2/callback", "/robots.txt", "/"):
            assert (await stage.browser.get(f"https://{APP}{path}")).status == 404
            assert (await stage.browser.get(f"https://evil.example.net{path}")).status == 404
        root = await stage.browser.get(f"https://{AUTH}/")
        robots = await stage.browser.get(f"https://{AUTH}/robots.txt")
        slash = await stage.browser.get(f"https://{APP}/.pomerium/callback?a=b")

        assert (root.status, root.location) == (302, "/.pomerium/")
        assert "Disallow: /" in robots.text
        assert (slash.status, slash.location) == (301, "/.pomerium/callback/?a=b")


NASTY = [
    "",
    "&&==&;=;",
    "k=&q=",
    "k=%00&q=%ff",
    "k=A&q=A&pomerium_hpke_sender_pub=A&pomerium_hpke_query=A",
    "pomerium_issued=1&pomerium_issued=2&pomerium_expiry=3&pomerium_signature=x",
    "pomerium_issued=" + "9" * 5000 + "&pomerium_expiry=1&pomerium_signature=" + "A" * 5000,
    "pomerium_issued=\u0661&pomerium_expiry=\u0661&pomerium_signature=\u0661".encode().decode("latin-1"),
    "pomerium_redirect_uri=https://[&pomerium_idp_id=%f0",
    "error=%00%0d%0aSet-Cookie:x=y",
    "code=c&state=" + "A" * 40_000,
    "code=c&state=-_-_",
    "iss=1&code=2",
]


@pytest.mark.parametrize("query", NASTY)
async def test_whatever_somebody_sends_is_answered_and_signs_nobody_in(tmp_path: Path, query: str) -> None:
    """N-4, N-6: no exception ever reaches the server, whose answer would be 500."""
    async with scene(tmp_path) as stage:
        hosts = {"/.pomerium/callback/": APP, "/.pomerium/api/v1/login": APP}
        for path in ("/.pomerium/callback/", "/.pomerium/sign_in", "/oauth2/callback", "/.pomerium/api/v1/login"):
            answer = await stage.browser.get(f"https://{hosts.get(path, AUTH)}{path}?{query}")
            assert answer.status in (302, 400, 404), (path, answer.text)
            assert not answer.sets(SESSION_COOKIE)
            assert not answer.sets(AUTH_COOKIE)
