"""The authorize log and what is kept of denials (authorize.md 20)."""

from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from pomerium_agent.authorize.denials import Denials
from pomerium_agent.authorize.record import redacted_query
from pomerium_agent.authorize.rules import Rules
from pomerium_agent.policy import Kind, evaluate, outcome
from pomerium_agent.sessions.bearer import BearerFormat, BearerRule
from tests.fakes import session_records as people
from tests.unit.authorize.asking import PEOPLE, RULES, cookie, room, route, token, with_route

SECRET = token("s-ada")


def line(logs: list[Any]) -> dict[str, Any]:
    (event,) = [each for each in logs if each["event"] == "authorize check"]
    return dict(event)


def with_fields(*names: str) -> Rules:
    return replace(RULES, log_fields=names)


async def test_each_decision_leaves_one_line() -> None:
    """A-30."""
    async with room() as here:
        with capture_logs() as logs:
            here.ask("/a?b=c", cookie("s-ada"))

    assert line(logs) == {
        "event": "authorize check",
        "log_level": "info",
        "request-id": "req-1",
        "check-request-id": "req-1",
        "method": "GET",
        "path": "/a",
        "host": "wiki.example.com",
        "ip": "203.0.113.7",
        "session-id": "s-ada",
        "user": "u-ada",
        "email": "ada@example.com",
        "envoy-route-id": "r1",
        "envoy-route-checksum": "7",
        "route-id": "r1",
        "route-checksum": 7,
        "allow": True,
        "allow-why-true": ["email-ok"],
        "deny": False,
        "deny-why-false": [],
    }


async def test_a_remembered_answer_leaves_the_same_line() -> None:
    async with room() as here:
        with capture_logs() as first:
            here.ask(headers=cookie("s-ada"))
        with capture_logs() as again:
            here.ask(headers=cookie("s-ada"))

    assert line(first) == line(again)


async def test_early_denials_are_told_of_too() -> None:
    """A-30, W7."""
    rule = BearerRule(format=BearerFormat.JWT)
    async with room(with_route(route(bearer=rule))) as here:
        with capture_logs() as logs:
            here.ask(headers={**cookie("s-ada"), "authorization": "Bearer x"})
        with capture_logs() as unknown:
            here.ask(route_id="r9")

    assert line(logs)["deny-why-true"] == ["invalid-credentials"]
    assert line(unknown)["deny-why-true"] == ["route-not-found"]
    assert (line(unknown)["envoy-route-id"], line(unknown)["route-id"]) == ("r9", "")


async def test_an_impersonated_session_is_told_beside_the_original() -> None:
    """A-11."""
    records = (*PEOPLE, people.session("s-root", "u-mallory", as_session="s-ada", idp_id="idp-1"))
    async with room(records=records) as here:
        with capture_logs() as logs:
            assert here.ask(headers=cookie("s-root")).allowed

    event = line(logs)
    assert (event["session-id"], event["user"], event["email"]) == ("s-root", "u-mallory", "mallory@example.com")
    assert event["impersonate-session-id"] == "s-ada"
    assert event["impersonate-email"] == "ada@example.com"


async def test_a_service_account_is_named_as_one() -> None:
    records = (*PEOPLE, people.account("sa", "u-ada"))
    async with room(records=records) as here:
        with capture_logs() as logs:
            here.ask(headers=cookie("sa", idp_id=""))

    assert line(logs)["service-account-id"] == "sa"
    assert "session-id" not in line(logs)


async def test_credentials_are_never_in_the_log() -> None:
    """A-34, W10: whatever fields are asked for."""
    sent = {
        **cookie("s-ada"),
        "authorization": f"Pomerium {SECRET}",
        "x-pomerium-authorization": SECRET,
        "x-pomerium-jwt-assertion": SECRET,
        "x-other": "fine",
    }
    fields = ("headers", "query", "headers.cookie", "headers.X-Other", "id-token", "body", "nonsense")
    async with room(with_fields(*fields)) as here:
        with capture_logs() as logs:
            here.ask(f"/?a=b&pomerium_session={SECRET}&%70omerium_session={SECRET}", sent)

    event = line(logs)
    assert SECRET not in str(event)
    assert event["headers"]["X-Other"] == "fine"
    assert event["headers"]["Cookie"] == "[redacted]"
    assert event["query"].startswith("a=b&")
    assert {"id-token", "body", "nonsense"}.isdisjoint(event)


async def test_the_query_is_not_logged_unless_it_is_asked_for() -> None:
    """A-34."""
    async with room() as here:
        with capture_logs() as logs:
            here.ask("/?password=x", cookie("s-ada"))

    assert "password" not in str(line(logs))


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("a=b&c", "a=b&c"),
        ("pomerium_session=x&a=b", "pomerium_session=[redacted]&a=b"),
        ("pomerium%5fsession=x", "pomerium%5fsession=[redacted]"),
        ("a=%41", "a=%41"),
    ],
)
def test_our_own_parameters_are_hidden(query: str, shown: str) -> None:
    """W10."""
    assert redacted_query(query, "/") == shown


@pytest.mark.parametrize("query", ["code={}&state={}", "k={}&q={}&x", "{}"])
@pytest.mark.parametrize("path", ["/oauth2/callback", "/.pomerium/callback/", "/.pomerium/sign_in"])
async def test_nothing_that_a_login_carries_is_in_the_log(path: str, query: str) -> None:
    """N-33, A-34: a code of the provider and a sealed answer have names of one word."""
    url = f"{path}?{query.format(SECRET, SECRET)}"
    async with room(with_fields("path", "query", "headers")) as here:
        with capture_logs() as logs:
            here.ask(url, {":path": url, "referer": f"https://wiki.example.com:8443{url}"})
            here.ask("/plain?code=1", {":path": "/plain?code=1", "referer": "https://wiki.example.com/?q=2"})

    told, plain = [event for event in logs if event["event"] == "authorize check"]
    assert SECRET not in str(told)
    assert told["path"] == path
    assert told["headers"][":path"].startswith(f"{path}?")
    assert plain["query"] == "code=1"
    assert plain["headers"][":path"] == "/plain?code=1"
    assert plain["headers"]["Referer"] == "https://wiki.example.com/?q=2"


async def test_a_denial_can_be_decided_again_by_its_request_id() -> None:
    async with room() as here:
        headers = {**cookie("s-mallory"), "x-request-id": "id-7"}
        here.ask(f"/a?pomerium_session={SECRET}", headers)
        denied = here.checker.denials.find("id-7")

    assert denied is not None
    assert (denied.kind, denied.status, denied.session_id) == (Kind.DENIED, 403, "s-mallory")
    assert denied.facts.identity.email == "mallory@example.com"
    assert SECRET not in repr(denied)
    assert token("s-mallory") not in repr(denied)
    again = outcome(evaluate(RULES.routes[denied.route_id].policy, denied.facts))
    assert (again.kind, again.reasons) == (denied.kind, denied.reasons)


async def test_only_the_last_denials_are_kept() -> None:
    denials = Denials(2)
    async with room(denials=denials) as here:
        for name in ("1", "2", "3"):
            here.ask(headers={**cookie("s-mallory"), "x-request-id": name, "x-long": "x" * 10_000})
        here.ask(headers={**cookie("s-ada"), "x-request-id": "4"})
        for name in ("5", "6", "7"):
            here.ask(headers={"x-request-id": name})

    assert denials.find("1") is None
    assert denials.find("5") is None
    assert denials.find("7") is not None
    assert {each.request_id for each in denials.latest(5)} == {"2", "3", "6", "7"}
    assert len(repr(denials.latest(5))) < 15_000
