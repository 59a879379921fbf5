"""What an upstream gets to see of a request that passed (authorize.md 12, 15, 16, 24)."""

import hashlib
from dataclasses import replace

import pytest

from pomerium_agent.authorize.forwarded import is_ours
from pomerium_agent.sessions.signer import Signer, derive_signing_key
from pomerium_agent.settings import Secret
from tests.fakes import session_records as people
from tests.unit.authorize.asking import (
    ANYBODY,
    PEOPLE,
    RULES,
    SIGNER,
    Room,
    cookie,
    payload_of,
    room,
    route,
    token,
    with_route,
)

ASSERTION = "x-pomerium-jwt-assertion"
FORGED = {
    ASSERTION: "forged",
    "x-pomerium-jwt-assertion-for": "forged",
    "x-pomerium-claim-email": "root@example.com",
    "x-pomerium-claim-family": "Root",
    "x-pomerium-authorization": "forged",
    "x-serverless-authorization": "forged",
}
PASSING = with_route(
    route(ANYBODY, id="open", pass_identity_headers=True), with_route(route(pass_identity_headers=True))
)


async def test_identity_headers_say_who_it_is() -> None:
    """A-19, A-21, A-24."""
    async with room(PASSING) as here:
        answer = here.ask(headers=cookie("s-ada"), host="wiki.example.com:8443")

    assert answer.headers["x-pomerium-claim-email"] == "ada@example.com"
    assert answer.headers["x-pomerium-claim-family"] == "Lovelace"
    claims = answer.assertion
    assert (claims["iss"], claims["aud"]) == ("wiki.example.com", "wiki.example.com")
    assert (claims["sub"], claims["sid"], claims["name"]) == ("u-ada", "s-ada", "Ada L.")
    assert claims["groups"] == ["g1", "g2", "Engineers"]
    assert is_ours(answer.headers[ASSERTION], (SIGNER.jwk,), here.stage.clock.now())


async def test_of_a_stranger_every_header_says_nothing() -> None:
    """A-19: so that what was forged is overwritten."""
    async with room(PASSING) as here:
        answer = here.ask(headers=FORGED, route_id="open")

    seen = answer.upstream(FORGED)
    assert (seen["x-pomerium-claim-email"], seen["x-pomerium-claim-family"]) == ("", "")
    assert payload_of(seen[ASSERTION])["sub"] == ""
    assert [name for name, value in seen.items() if value == "forged"] == [
        "x-serverless-authorization"
    ]  # not ours here


@pytest.mark.parametrize("session", ["s-ada", ""])
async def test_nothing_that_was_forged_reaches_an_upstream_that_is_told_nothing(session: str) -> None:
    """A-19, A-20: the table of authorize 24."""
    rules = with_route(route(ANYBODY, serverless_audience="https://run.example.com"))
    sent = {**FORGED, "authorization": "Bearer Pomerium-forged", **(cookie(session) if session else {})}
    async with room(rules) as here:
        answer = here.ask("/?pomerium_session=forged&a=b", sent)

    seen = answer.upstream(sent)
    assert answer.allowed
    assert not [name for name, value in seen.items() if "forged" in value]
    assert not [name for name in seen if name.startswith("x-pomerium-")]
    assert answer.without_parameters == ("pomerium_session",)


@pytest.mark.parametrize(
    ("value", "gone"),
    [
        ("Pomerium x", True),
        ("Bearer Pomerium-x", True),
        ("bEARER Pomerium-x", True),
        ("pomerium x", False),
        ("Bearer x", False),
        ("Basic x", False),
    ],
)
async def test_an_authorization_that_was_meant_for_us_goes_no_further(value: str, gone: bool) -> None:
    """Authorize 24."""
    async with room() as here:
        answer = here.ask(headers={**cookie("s-ada"), "authorization": value})

    assert ("authorization" in answer.removed) is gone


async def test_the_assertion_is_signed_only_for_somebody_who_reads_it() -> None:
    """W5."""
    async with room() as here:
        assert ASSERTION not in here.ask(headers=cookie("s-ada")).headers
        here.rules.set(with_route(route(set_request_headers={"X-Token": "Bearer ${pomerium.jwt}"})))
        shown = here.ask(headers=cookie("s-ada")).headers["x-token"].removeprefix("Bearer ")

    assert payload_of(shown)["sub"] == "u-ada"


async def test_the_assertion_is_used_again_for_a_part_of_its_life_and_never_beyond() -> None:
    """A-21, W5."""
    async with room(PASSING) as here:
        first = here.ask(headers=cookie("s-ada")).headers[ASSERTION]
        here.stage.clock.jump(100)
        again = here.ask(headers=cookie("s-ada")).headers[ASSERTION]
        here.stage.clock.jump(51)
        later = here.ask(headers=cookie("s-ada")).headers[ASSERTION]

    assert first == again != later


async def test_templates_are_filled_in_once() -> None:
    """A-27."""
    templates = {
        "X-Access": "${pomerium.access_token}",
        "X-Id": "$pomerium.id_token",
        "X-Agent": '${pomerium.request.headers["User-Agent"]}',
        "X-Unknown": "a${pomerium.nothing}b",
        "X-Cost": "$$5",
        "X-Leaf": "${pomerium.client_cert_fingerprint}",
    }
    records = (*PEOPLE, people.session("s-tok", "u-ada", token="access", id_token="id", idp_id="idp-1"))
    async with room(with_route(route(set_request_headers=templates)), records=records) as here:
        answer = here.ask(headers={**cookie("s-tok"), "user-agent": "${pomerium.access_token}"})

    assert {name: answer.headers[name.lower()] for name in templates} == {
        "X-Access": "access",
        "X-Id": "id",
        "X-Agent": "${pomerium.access_token}",
        "X-Unknown": "ab",
        "X-Cost": "$5",
        "X-Leaf": "",
    }


async def test_several_values_for_one_name_are_joined_in_order() -> None:
    """Authorize 12; routes 5, step 3."""
    changed = route(set_request_headers={"X-Pomerium-Claim-Email": "more"}, pass_identity_headers=True)
    async with room(with_route(changed)) as here:
        assert here.ask(headers=cookie("s-ada")).headers["x-pomerium-claim-email"] == "ada@example.com,more"


async def test_no_value_ends_a_header() -> None:
    records = (*PEOPLE, people.session("s-odd", "u-odd", claims={"family": ["a\r\nx-evil: 1"]}, idp_id="idp-1"))
    rules = with_route(route(ANYBODY, pass_identity_headers=True, set_request_headers={"X-A": "a\r\n\x00b"}))
    async with room(rules, records=records) as here:
        answer = here.ask(headers=cookie("s-odd"))

    assert answer.headers["x-pomerium-claim-family"] == "a  x-evil: 1"
    assert answer.headers["x-a"] == "a   b"


async def test_kubernetes_is_asked_as_the_user_with_each_group_apart() -> None:
    """A-26: a group with a comma in its name stays one group."""
    records = (
        people.session("s-k", "u-k", idp_id="idp-1"),
        people.directory_user("u-k", email="k@example.com", group_ids=["a,b", "c%"]),
    )
    rules = with_route(route(ANYBODY, kubernetes=True, kubernetes_token=Secret("tok\n")))
    async with room(rules, records=records) as here:
        answer = here.ask(headers={**cookie("s-k"), "authorization": f"Pomerium {token('s-k')}"})

    assert answer.headers["authorization"] == "Bearer tok"
    assert "authorization" not in answer.removed
    assert answer.headers["impersonate-user"] == "k@example.com"
    assert answer.headers["x-pomerium-impersonate-groups"] == "a%2Cb,c%25"


async def test_no_group_becomes_another_one_on_its_way() -> None:
    """A-26: blanks around a header's value are taken off, and what is no text cannot be in it."""
    odd = [" system:masters", "system:masters ", "a\r\nb", "", "fine"]
    records = (
        people.session("s-k", "u-k", idp_id="idp-1"),
        people.directory_user("u-k", email="k@example.com", group_ids=odd),
    )
    rules = with_route(route(ANYBODY, kubernetes=True, kubernetes_token=Secret("tok")))
    async with room(rules, records=records) as here:
        answer = here.ask(headers=cookie("s-k"))

    assert [part for part in answer.headers["x-pomerium-impersonate-groups"].split(",") if part] == ["fine"]


async def test_requests_of_one_session_go_to_one_upstream() -> None:
    """Authorize 12, row 7."""
    async with room(with_route(route(ANYBODY, affinity=True))) as here:
        known = here.ask(headers=cookie("s-ada")).headers["x-pomerium-routing-key"]
        stranger = here.ask().headers["x-pomerium-routing-key"]

    assert known == hashlib.sha256(b"s-ada").hexdigest()
    assert stranger == hashlib.sha256(b"").hexdigest()


async def forwarded(here: Room, jwt: str) -> str:
    return here.ask(headers={**cookie("s-ada"), ASSERTION: jwt}).headers.get("x-pomerium-jwt-assertion-for", "")


async def test_an_assertion_is_passed_on_only_when_we_signed_it() -> None:
    """Authorize 24 [D]."""
    async with room(PASSING) as here:
        ours = here.ask(headers=cookie("s-mallory"), route_id="open").headers[ASSERTION]
        theirs = Signer(derive_signing_key(b"x" * 32)).sign({"exp": 2**40})

        assert await forwarded(here, ours) == ours
        assert await forwarded(here, theirs) == ""
        assert await forwarded(here, ours[:-2]) == ""
        assert await forwarded(here, SIGNER.sign({"sub": "x"})) == ""
        assert await forwarded(here, f"{ours},{ours}") == ""
        here.stage.clock.jump(361)
        assert await forwarded(here, ours) == ""


async def test_our_own_pages_learn_who_is_there_from_us_alone() -> None:
    """Authorize 17, 24."""
    async with room() as here:
        known = here.ask("/.pomerium/user", {**cookie("s-ada"), **FORGED}, internal=True)
        open_page = here.ask("/ping", FORGED, internal=True)

    assert known.assertion["sub"] == "u-ada"
    assert "x-pomerium-jwt-assertion-for" in known.removed
    assert ASSERTION in open_page.removed


async def test_without_a_key_the_assertion_is_empty_and_still_overwrites() -> None:
    """Authorize 12, row 1."""
    async with room(replace(PASSING, signer=None)) as here:
        answer = here.ask(headers={**cookie("s-ada"), **FORGED})

    assert answer.headers[ASSERTION] == ""
    assert answer.headers["x-pomerium-claim-email"] == "ada@example.com"


async def test_rules_show_no_keys() -> None:
    assert "\\x1f" not in repr(RULES)
