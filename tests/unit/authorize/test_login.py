"""How a login begins: the link, the cookie that ties it to the browser, and browsers that go round in circles."""

import json
from dataclasses import replace
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from pomerium_agent.authorize.gather import gather
from pomerium_agent.authorize.login import SignInLinks
from pomerium_agent.authorize.loop import ALLOWED, Cause, LoopDetector, causes_of
from pomerium_agent.authorize.rules import Rules
from pomerium_agent.handoff import hpke, nonce
from pomerium_agent.handoff.keys import hpke_key
from pomerium_agent.handoff.sealed import Version, check_lifetime, open_query, read_sealed
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.sessions.handle import Handle, sign_handle
from pomerium_agent.sessions.sources import find_handles
from tests.fakes.config_records import NOW
from tests.unit.authorize.asking import (
    BROWSER,
    HOST,
    IDP,
    KEY,
    RULES,
    Answer,
    Room,
    cookie,
    question,
    room,
    route,
    token,
    with_route,
)

SERVER = hpke.derive_key_pair(bytes(32))
STATELESS = replace(RULES, stateless=True)
PAGE = {"accept": BROWSER}


def links(key: bytes | None = hpke.public_bytes(SERVER)) -> SignInLinks:
    return SignInLinks(Latest[bytes | None](key), "1.2.3 linux/amd64 ")


def login_cookie_of(answer: Answer) -> str:
    return answer.headers["set-cookie"].partition(";")[0].partition("=")[2]


def inner(location: str) -> dict[str, str]:
    sealed = read_sealed(urlsplit(location).query)
    assert sealed is not None
    assert sealed.version is Version.V2
    assert sealed.sender == hpke.public_bytes(hpke_key(KEY))
    return open_query(sealed, SERVER)


async def test_the_hosted_service_is_told_in_a_sealed_query() -> None:
    """N-7, N-12, N-13: exactly these parameters, and our callback with its echo."""
    async with room(STATELESS, sign_in_url=links()) as here:
        answer = here.ask("/a?b=c", PAGE)
        told = inner(answer.headers["location"])
        check_lifetime(told, here.stage.clock.now())

    assert answer.status == 302
    assert answer.headers["location"].startswith("https://authenticate.example.com/.pomerium/sign_in?k=")
    assert told.keys() == {
        "pomerium_redirect_uri",
        "pomerium_idp_id",
        "pomerium_version",
        "pomerium_request_uuid",
        "pomerium_issued",
        "pomerium_expiry",
        "pomerium_callback_uri",
    }
    assert told["pomerium_redirect_uri"] == f"https://{HOST}/a?b=c"
    assert told["pomerium_idp_id"] == IDP
    assert told["pomerium_version"] == "1.2.3 linux/amd64 "
    callback = urlsplit(told["pomerium_callback_uri"])
    assert (callback.netloc, callback.path) == (HOST, "/.pomerium/callback/")
    echo = parse_qs(callback.query)[nonce.PARAMETER][0]
    assert nonce.matches(KEY, login_cookie_of(answer), HOST, echo)


@pytest.mark.parametrize("rules", [RULES, STATELESS])
async def test_a_browser_keeps_its_cookie_for_all_its_tabs(rules: Rules) -> None:
    """N-15, G-3: the first login sets it, those after it echo the same one, and its quarter of an hour begins anew."""
    async with room(rules, sign_in_url=links()) as here:
        first = here.ask("/", PAGE)
        known = login_cookie_of(first)
        second = here.ask("/", {**PAGE, "cookie": f"x=y; {nonce.cookie_name('_pomerium')}={known}"})

    assert first.headers["set-cookie"] == second.headers["set-cookie"]
    assert first.headers["set-cookie"] == (
        f"__Host-_pomerium_login={known}; Path=/; Max-Age=900; Secure; HttpOnly; SameSite=Lax"
    )
    location = second.headers["location"]
    told = inner(location) if rules.stateless else {k: v[0] for k, v in parse_qs(urlsplit(location).query).items()}
    assert told["pomerium_callback_uri"] == nonce.callback_url(KEY, known, HOST)


@pytest.mark.parametrize("bad", ["", "short", "a" * 44, "é" * 43, "a" * 42 + ";", "a" * 16384])
async def test_a_cookie_that_cannot_be_ours_is_replaced(bad: str) -> None:
    async with room() as here:
        answer = here.ask("/", {**PAGE, "cookie": f"__Host-_pomerium_login={bad}"})

    assert answer.status == 302
    assert login_cookie_of(answer) not in (bad, "")


async def test_a_script_gets_link_and_cookie_and_no_redirect() -> None:
    """W1: whoever opens the link later comes back with the cookie."""
    async with room(STATELESS, sign_in_url=links()) as here:
        answer = here.ask("/api", {"sec-fetch-mode": "cors", "accept": "*/*"})

    assert (answer.status, answer.headers["content-type"]) == (401, "application/json")
    told = inner(json.loads(answer.body)["login_url"])
    echo = parse_qs(urlsplit(told["pomerium_callback_uri"]).query)[nonce.PARAMETER][0]
    assert nonce.matches(KEY, login_cookie_of(answer), HOST, echo)


@pytest.mark.parametrize("key", [None, b"", bytes(32)])
async def test_while_the_hosted_service_is_away_nobody_new_gets_in_and_is_told_so(key: bytes | None) -> None:
    """Authorize 23: 503, not a link that leads nowhere; those who are signed in pass."""
    async with room(STATELESS, sign_in_url=links(key)) as here:
        answer = here.ask("/", PAGE)
        known = here.ask("/", cookie("s-ada"))

    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert "location" not in answer.headers
    assert known.allowed


def sent(here: Room, headers: dict[str, str], **more: str) -> int:
    return here.ask("/", {**PAGE, **headers}, **more).status


async def test_a_browser_that_goes_round_in_circles_gets_a_page() -> None:
    """A few times a minute is enough; a minute later it may try again."""
    browser = {"cookie": f"__Host-_pomerium_login={nonce.new_cookie()}"}
    async with room(with_route(route(id="r2")), sign_in_url=links()) as here:
        statuses = []
        for _ in range(ALLOWED + 1):
            statuses.append(sent(here, browser))
            await here.stage.clock.advance(2)
        assert statuses == [302] * ALLOWED + [429]
        page = here.ask("/", {**PAGE, **browser})
        assert "The session cookie does not come back" in page.body
        assert "req-1" in page.body
        assert "location" not in page.headers
        assert sent(here, browser, route_id="r2") == 302
        assert sent(here, {"cookie": f"__Host-_pomerium_login={nonce.new_cookie()}"}) == 302
        await here.stage.clock.advance(61)
        assert sent(here, browser) == 302


async def test_tabs_that_are_opened_together_are_no_circle() -> None:
    browser = {"cookie": f"__Host-_pomerium_login={nonce.new_cookie()}"}
    async with room() as here:
        assert {sent(here, browser) for _ in range(40)} == {302}


def strange(cookie_value: str) -> tuple[Cause, ...]:
    asked = gather(CheckRequest.FromString(question("/", {"cookie": f"_pomerium={cookie_value}"})))
    presented = find_handles([("cookie", asked.headers["cookie"])], "", cookie_name="_pomerium")
    rules = replace(RULES, handle_lifetime=timedelta(hours=14))
    return causes_of(asked, presented, rules, IDP, NOW)


def test_what_may_be_wrong_is_read_off_the_cookie() -> None:
    """The likeliest first."""
    seconds = int(NOW.timestamp())
    assert strange("") == (Cause.NO_COOKIE,)
    assert strange("garbage") == (Cause.FOREIGN_COOKIE, Cause.NO_COOKIE)
    assert strange(sign_handle(Handle(id="s"), bytes(32))) == (Cause.FOREIGN_COOKIE, Cause.NO_COOKIE)
    assert strange(token("s-gone", idp_id="idp-2")) == (Cause.OTHER_PROVIDER,)
    assert strange(token("s-gone", issued_at=seconds)) == (Cause.NO_SESSION, Cause.CLOCK)
    assert strange(token("s-gone", issued_at=seconds + 600)) == (Cause.CLOCK, Cause.NO_SESSION)
    assert strange(token("s-gone", issued_at=seconds - 14 * 3600)) == (Cause.CLOCK, Cause.NO_SESSION)


def test_the_memory_of_browsers_is_bounded() -> None:
    detector = LoopDetector(limit=3)
    for number in range(10):
        assert not detector.loops(f"browser-{number}", "r1", NOW)
    assert len(detector._seen) == 3
    assert not detector.loops("", "r1", NOW)
