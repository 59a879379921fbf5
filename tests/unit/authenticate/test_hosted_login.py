"""The end of a hosted login: what the service sealed is opened, checked and used once (authenticate 4.4)."""

import asyncio
import base64
import contextlib
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pomerium_agent.authenticate.profile import read_profile
from pomerium_agent.errors import HandoffRejected
from pomerium_agent.handoff.sealed import Version, open_query, read_sealed
from tests.unit.authenticate.stage import (
    APP,
    LOGIN_COOKIE,
    OTHER_KEY,
    SERVER,
    SESSION_COOKIE,
    WANTED,
    Scene,
    hosted,
)


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def profile(stage: Scene, **changes: Any) -> str:
    """As the service writes it (4.3)."""
    oauth = {
        "access_token": "at",
        "token_type": "Bearer",
        "refresh_token": "rt",
        "expiry": "2030-01-01T01:00:00.123456789Z",
    }
    said = {
        "providerId": stage.idp_id,
        "oauthToken": b64(json.dumps(oauth)),
        "claims": {"sub": "ada", "name": "Ada", "email": "ada@example.com", "groups": ["a", "b"], "n": {"x": 1}},
    }
    return json.dumps({name: value for name, value in (said | changes).items() if value is not None})


async def test_neither_a_login_nor_its_failure_leaves_a_secret_in_the_log(tmp_path: Path) -> None:
    """N-33: a login, its replay, and one whose profile cannot be read."""
    tokens = {"access_token": "the-access-token", "refresh_token": "the-refresh-token"}
    async with hosted(tmp_path) as (stage, _):
        url = stage.hosted_answer(stage.hosted_url(), profile(stage, oauthToken=b64(json.dumps(tokens))))
        odd = stage.hosted_answer(stage.hosted_url(), profile(stage, idToken="the-id-token", more="the-word"))
        with capture_logs() as logs:
            answers = [await stage.browser.get(each) for each in (url, url, odd)]

    assert [answer.status for answer in answers] == [302, 400, 400]
    counted = stage.desk.metrics.text().decode()
    assert 'logins_total{result="success"} 1.0' in counted
    assert 'logins_total{result="refused"} 2.0' in counted
    said = json.dumps(logs, default=str)
    assert [entry["event"] for entry in logs] == ["signed in", "login page refused", "login page refused"]
    sent = [value.partition("=")[2] for each in (url, odd) for value in urlsplit(each).query.split("&")]
    secrets = {*tokens.values(), "the-id-token", "the-word", *stage.browser.jar.values(), *sent}
    assert [secret for secret in secrets if secret in said] == []


@pytest.mark.parametrize("version", list(Version))
async def test_a_hosted_login_ends_at_the_page_that_was_wanted(tmp_path: Path, version: Version) -> None:
    """4.4, N-7, N-16, N-17."""
    async with hosted(tmp_path) as (stage, _):
        url = stage.hosted_answer(stage.hosted_url(), profile(stage), version=version)
        landed = await stage.browser.get(url)

        assert (landed.status, landed.location) == (302, WANTED)
        handle = stage.browser.handle(APP)
        session = await stage.store.session(handle.id)
        assert len(stage.store.puts) == 1
        assert [record.type.rpartition(".")[2] for record in stage.store.puts[0]] == ["User", "Session"]
        assert (handle.user_id, handle.idp_id, handle.audience, handle.issuer) == ("ada", stage.idp_id, (), "")
        assert (session.oauth_token.access_token, session.oauth_token.refresh_token) == ("at", "rt")
        assert session.oauth_token.expires_at.ToJsonString() == "2030-01-01T01:00:00.123456Z"
        assert list(session.claims["n.x"]) == [1]
        assert not session.audience
        user = await stage.store.user("ada")
        assert user is not None
        assert (user.name, user.email) == ("Ada", "ada@example.com")


@pytest.mark.parametrize(
    ("claims", "user_id"),
    [
        ({"oid": "o", "sub": "s", "user": "u"}, "o"),
        ({"sub": "s", "user": "u"}, "s"),
        ({"user": "u"}, "u"),
        ({"oid": "", "sub": 12345}, "12345"),
    ],
)
async def test_who_it_is(tmp_path: Path, claims: dict[str, Any], user_id: str) -> None:
    """N-17."""
    async with hosted(tmp_path) as (stage, _):
        await stage.browser.get(stage.hosted_answer(stage.hosted_url(), profile(stage, claims=claims)))

        assert stage.browser.handle(APP).user_id == user_id


async def test_what_is_known_of_a_user_stays(tmp_path: Path) -> None:
    """4.4, 7: claims are merged over those of an earlier login."""
    async with hosted(tmp_path) as (stage, _):
        for claims in ({"sub": "ada", "a": 1, "b": 1}, {"sub": "ada", "b": 2}):
            await stage.browser.get(stage.hosted_answer(stage.hosted_url(), profile(stage, claims=claims)))

        user = await stage.store.user("ada")
        assert user is not None
        assert (list(user.claims["a"]), list(user.claims["b"])) == ([1], [2])
        assert await stage.store.count() == 2


async def test_what_stands_beside_the_sealed_query_changes_nothing(tmp_path: Path) -> None:
    """N-8."""
    async with hosted(tmp_path) as (stage, _):
        url = stage.hosted_answer(stage.hosted_url(), profile(stage))
        beside = (
            "&pomerium_redirect_uri=https://evil.example.net/&pomerium_callback_uri=https://evil.example.net/"
            "&pomerium_programmatic=true&pomerium_expiry=1&pomerium_login_nonce=x&k=evil&q=evil"
        )
        landed = await stage.browser.get(url + beside)

        assert landed.location == WANTED


async def test_only_the_service_can_seal(tmp_path: Path) -> None:
    """N-14: any other key is refused, however well it sealed."""
    async with hosted(tmp_path) as (stage, _):
        answer = await stage.browser.get(stage.hosted_answer(stage.hosted_url(), profile(stage), sealed_by=OTHER_KEY))

        assert (answer.status, answer.cookies) == (400, [])
        assert await stage.store.count() == 0


@pytest.mark.parametrize("spoil", ["", "q=", "k=", "garbage"])
async def test_what_was_changed_or_cut_is_refused(tmp_path: Path, spoil: str) -> None:
    """N-6."""
    async with hosted(tmp_path) as (stage, _):
        url = stage.hosted_answer(stage.hosted_url(), profile(stage))
        base, _, query = url.partition("?")
        bad = {
            "": "",
            "q=": query.replace("q=", "q=AA", 1),
            "k=": query.replace("k=", "k=AA", 1),
            "garbage": query[:-9],
        }

        answer = await stage.browser.get(f"{base}?{bad[spoil]}")

        assert (answer.status, answer.cookies) == (400, [])


@pytest.mark.parametrize("seconds", [361, -61])
async def test_a_callback_outside_of_its_time_is_refused(tmp_path: Path, seconds: float) -> None:
    """N-4: in milliseconds here, with a minute for the clocks."""
    async with hosted(tmp_path) as (stage, _):
        url = stage.hosted_answer(stage.hosted_url(), profile(stage))
        stage.clock.jump(seconds)

        answer = await stage.browser.get(url)

        assert answer.status == 400
        assert WANTED.replace("&", "&amp;") in answer.text


@pytest.mark.parametrize(
    "change", [{"pomerium_issued": ""}, {"pomerium_expiry": "soon"}, {"pomerium_expiry": "99999999999999"}]
)
async def test_a_callback_must_say_how_long_it_is_good_for(tmp_path: Path, change: dict[str, str]) -> None:
    async with hosted(tmp_path) as (stage, _):
        answer = await stage.browser.get(stage.hosted_answer(stage.hosted_url(), profile(stage), changes=change))

        assert (answer.status, answer.cookies) == (400, [])


@pytest.mark.parametrize("how", ["no cookie", "foreign", "no echo", "other host"])
async def test_a_callback_belongs_to_the_browser_that_began(tmp_path: Path, how: str) -> None:
    """N-15: nothing is written, and the page says what to do."""
    async with hosted(tmp_path) as (stage, _):
        changes = {"pomerium_login_nonce": ""} if how == "no echo" else {}
        url = stage.hosted_answer(stage.hosted_url(), profile(stage), changes=changes)
        who = stage.browser if how in ("no echo", "other host") else stage.another_browser()
        if how == "foreign":
            who.begins(APP)
        if how == "other host":
            who.jar["wiki.example.com", "/", LOGIN_COOKIE] = who.cookie(APP, LOGIN_COOKIE)
            url = url.replace(APP, "wiki.example.com", 1)

        answer = await who.get(url)

        assert (answer.status, answer.cookies) == (400, [])
        assert "cookie" in answer.text
        assert await stage.store.count() == 0


async def test_in_a_mixed_cluster_a_login_that_another_make_began_is_let_through(tmp_path: Path) -> None:
    """G-3: it has no echo at all; one that has a false echo is refused there too."""
    async with hosted(tmp_path, mixed_cluster=True) as (stage, _):
        unbound = stage.hosted_answer(stage.hosted_url(), profile(stage), changes={"pomerium_login_nonce": ""})
        bound = stage.hosted_answer(stage.hosted_url(), profile(stage))

        assert (await stage.another_browser().get(unbound)).status == 302
        assert (await stage.another_browser().get(bound)).status == 400


async def test_two_tabs_of_one_browser_both_arrive(tmp_path: Path) -> None:
    """N-15."""
    async with hosted(tmp_path) as (stage, _):
        urls = [stage.hosted_answer(stage.hosted_url(), profile(stage)) for _ in range(2)]

        assert [(await stage.browser.get(url)).status for url in urls] == [302, 302]


async def test_a_callback_works_once_even_for_many_at_once(tmp_path: Path) -> None:
    """N-15: spelling it another way does not help."""
    async with hosted(tmp_path) as (stage, _):
        url = stage.hosted_answer(stage.hosted_url(), profile(stage))
        answers = await asyncio.gather(*(stage.browser.get(url + "=" * (n % 2)) for n in range(6)))

        assert sorted(answer.status for answer in answers) == [302, *[400] * 5]
        assert await stage.store.count() == 1


async def test_a_store_that_does_not_take_it_gives_no_cookie(tmp_path: Path) -> None:
    """N-16."""
    async with hosted(tmp_path) as (stage, _):
        stage.store.refuses_writes = True

        answer = await stage.browser.get(stage.hosted_answer(stage.hosted_url(), profile(stage)))

        assert (answer.status, answer.cookies) == (500, [])


async def test_a_login_with_another_provider_says_so(tmp_path: Path) -> None:
    """N-19: instead of sending the browser round in circles."""
    async with hosted(tmp_path) as (stage, _):
        answer = await stage.browser.get(stage.hosted_answer(stage.hosted_url(), profile(stage, providerId="other")))

        assert (answer.status, answer.cookies) == (400, [])
        assert "another identity provider" in answer.text
        assert await stage.store.count() == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"unknown": 1},
        {"oauthToken": "%%%"},
        {"idToken": "a b"},
        {"oauthToken": b64("[]")},
        {"oauthToken": b64('{"expiry":"tomorrow"}')},
        {"oauthToken": b64('{"access_token":1}')},
        {"claims": {}},
        {"claims": {"sub": ""}},
        {"claims": {"sub": "x" * 1025}},
        {"claims": {"sub": True}},
        {"claims": "no"},
        {"providerId": 1},
    ],
)
async def test_a_profile_that_is_not_to_the_letter_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    """N-18."""
    async with hosted(tmp_path) as (stage, _):
        answer = await stage.browser.get(stage.hosted_answer(stage.hosted_url(), profile(stage, **changes)))

        assert (answer.status, answer.cookies) == (400, [])
        assert await stage.store.count() == 0


async def test_a_large_profile_fits(tmp_path: Path) -> None:
    """Tokens do not compress, and Envoy lets requests of 60 KiB through."""
    async with hosted(tmp_path) as (stage, _):
        noise = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(600))
        url = stage.hosted_answer(
            stage.hosted_url(), profile(stage, idToken=base64.b64encode(noise.hex().encode()).decode())
        )
        assert len(url) > 24_000

        assert (await stage.browser.get(url)).location == WANTED


async def test_an_id_token_is_kept_with_what_it_says(tmp_path: Path) -> None:
    """3.10: parsed, not verified; trust is in the seal (4.4)."""
    async with hosted(tmp_path) as (stage, _):
        parts = ({"alg": "RS256"}, {"iss": "https://idp", "sub": "ada", "exp": 1893459600, "iat": 1893456000})
        raw = ".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts) + ".c2ln"
        await stage.browser.get(stage.hosted_answer(stage.hosted_url(), profile(stage, idToken=b64(raw))))

        kept = (await stage.store.session(stage.browser.handle(APP).id)).id_token
        assert (kept.raw, kept.issuer, kept.subject, kept.expires_at.seconds) == (raw, "https://idp", "ada", 1893459600)


async def test_a_token_without_an_expiry_is_kept_as_others_do(tmp_path: Path) -> None:
    """3.10: year 1; and such a session is valid."""
    async with hosted(tmp_path) as (stage, _):
        oauth = json.dumps({"access_token": "at", "expiry": "0001-01-01T00:00:00Z"})
        await stage.browser.get(stage.hosted_answer(stage.hosted_url(), profile(stage, oauthToken=b64(oauth))))

        session = await stage.store.session(stage.browser.handle(APP).id)
        assert session.oauth_token.expires_at.seconds == -62135596800


async def test_the_service_being_away_is_told_until_it_is_back(tmp_path: Path) -> None:
    async with hosted(tmp_path) as (stage, server):
        key, server.answers = server.answers, 503
        stage.change_login(internal_url=f"{server.url}/")  # another service, whose key nobody knows yet

        away = await stage.browser.get(stage.hosted_answer(stage.hosted_url(), profile(stage)))
        server.answers = key
        stage.change_login(internal_url=server.url)
        stage.clock.jump(10)
        back = await stage.browser.get(stage.hosted_answer(stage.hosted_url(), profile(stage)))

        assert (away.status, away.cookies) == (503, [])
        assert back.location == WANTED


async def test_a_new_key_of_the_service_counts_at_once(tmp_path: Path) -> None:
    """Ours may be a minute old."""
    async with hosted(tmp_path) as (stage, server):
        new, server.answers = server.answers, bytes(range(1, 33))
        await stage.desk.server_key.current()
        stage.clock.jump(61)
        await stage.desk.server_key.current()
        server.answers = new
        stage.clock.jump(6)

        landed = await stage.browser.get(stage.hosted_answer(stage.hosted_url(), profile(stage)))

        assert landed.location == WANTED


async def test_the_way_to_the_service_carries_what_it_should(tmp_path: Path) -> None:
    """N-13."""
    async with hosted(tmp_path) as (stage, _):
        sealed = read_sealed(urlsplit(stage.hosted_url()).query)
        assert sealed is not None
        assert sealed.version is Version.V2
        inner = open_query(sealed, SERVER)

        assert inner.keys() == {
            "pomerium_redirect_uri",
            "pomerium_idp_id",
            "pomerium_callback_uri",
            "pomerium_version",
            "pomerium_request_uuid",
            "pomerium_issued",
            "pomerium_expiry",
        }


async def test_there_are_no_login_pages_of_our_own(tmp_path: Path) -> None:
    async with hosted(tmp_path) as (stage, _):
        for path in ("/.pomerium/sign_in", "/oauth2/callback?code=c"):
            assert (await stage.browser.get(f"https://{APP}{path}")).status == 404


async def test_nothing_is_accepted_before_there_is_a_configuration(tmp_path: Path) -> None:
    async with hosted(tmp_path) as (stage, _):
        url = stage.hosted_answer(stage.hosted_url(), profile(stage))
        stage.site.set(replace(stage.site.value, shared_key=b""))

        assert (await stage.browser.get(url)).status == 404


async def test_the_redirect_must_be_of_this_cluster_whatever_was_sealed(tmp_path: Path) -> None:
    """N-41."""
    async with hosted(tmp_path) as (stage, _):
        url = stage.hosted_answer(
            stage.hosted_url(), profile(stage), changes={"pomerium_redirect_uri": "https://evil.example.net/"}
        )

        answer = await stage.browser.get(url)

        assert (answer.status, answer.cookies) == (400, [])
        assert not stage.browser.cookie(APP, SESSION_COOKIE)


WORDS = st.sampled_from(["providerId", "claims", "idToken", "oauthToken", "sub", "access_token", "e30="])
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | WORDS,
    lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner),
)


@given(st.text() | JSON.map(json.dumps))
def test_no_profile_does_anything_but_be_read_or_refused(text: str) -> None:
    """N-18, for whatever there may be in it."""
    with contextlib.suppress(HandoffRejected):
        read_profile(text)
