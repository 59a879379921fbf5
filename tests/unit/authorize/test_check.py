"""One check from bytes to bytes: who may pass, and who may not (authorize.md 3, 6, 7)."""

import asyncio
from collections.abc import Awaitable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from google.protobuf.message import DecodeError

from pomerium_agent.authorize.check import Checker, check
from pomerium_agent.authorize.decide import NEEDS_SESSION
from pomerium_agent.authorize.rules import CLOSED, NO_RULES, RouteRules
from pomerium_agent.config.trust import ClientTrust
from pomerium_agent.errors import DatabrokerUnavailable
from pomerium_agent.policy import RoutePolicy
from pomerium_agent.records import Record
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.sessions.access import AccessTracker
from pomerium_agent.sessions.bearer import BearerFormat, BearerRule, Bearers
from pomerium_agent.settings import Secret
from tests.fakes import session_records as people
from tests.fakes.client_certificates import root
from tests.fakes.clock import ManualClock
from tests.unit.authorize.asking import (
    ANYBODY,
    BROWSER,
    IDP,
    NOBODY,
    RULES,
    Answer,
    cookie,
    question,
    room,
    route,
    token,
    with_route,
)

ALLOWED_PAGES = ["/ping", "/healthz", "/.pomerium/", "/.pomerium/callback/", "/.well-known/pomerium/jwks.json?x=1"]


def test_without_rules_nothing_but_our_own_pages_passes() -> None:
    """R-9, A-2."""
    answer = Answer(check(question()))

    assert (answer.response.status.code, answer.response.status.message) == (7, "Access Denied")
    assert answer.status == 404
    assert Answer(check(question("/.pomerium/", internal=True))).allowed
    assert not Answer(check(question("/.pomerium/user", internal=True))).allowed


async def test_a_question_waits_for_the_first_rules_of_an_agent_that_has_just_begun() -> None:
    """Architecture 7: its Envoy serves all the while, and an answer without rules would be wrong."""
    async with room() as here:
        rules, clock = Latest(NO_RULES), ManualClock()
        checker = Checker(rules, here.sessions, clock, wait_for_rules=8.0)
        own_page = checker.check(question("/.pomerium/", internal=True))
        assert isinstance(own_page, bytes)

        waiting = asyncio.ensure_future(_awaited(checker.check(question(headers=cookie("s-ada")))))
        await clock.until_sleeping()
        rules.set(RULES)

        assert Answer(await waiting).allowed


@pytest.mark.parametrize("path", ["/admin/%zz", "/admin/%ff", "/admin/%"])
async def test_a_path_that_cannot_be_read_gets_past_no_policy_that_reads_it(path: str) -> None:
    """P-16: a deny for /admin would see no path at all."""
    guarded = '[{"deny": {"and": [{"http_path": {"starts_with": "/admin"}}]}, "allow": {"and": [{"accept": true}]}}]'
    async with room(with_route(route(guarded))) as here:
        assert here.ask("/public", headers=cookie("s-ada")).allowed
        assert here.ask(path, headers=cookie("s-ada")).status == 400
    async with room(with_route(route(ANYBODY))) as here:
        assert here.ask(path, headers=cookie("s-ada")).allowed


async def test_a_question_that_waited_in_vain_has_no_answer() -> None:
    """A-2: and errors are answered with 503."""
    async with room() as here:
        clock = ManualClock()
        checker = Checker(Latest(NO_RULES), here.sessions, clock, wait_for_rules=8.0)
        waiting = asyncio.ensure_future(_awaited(checker.check(question(headers=cookie("s-ada")))))
        await clock.until_sleeping()
        await clock.advance(8.0)

        with pytest.raises(DatabrokerUnavailable, match="no configuration"):
            await waiting


async def _awaited(answer: bytes | Awaitable[bytes]) -> bytes:
    return answer if isinstance(answer, bytes) else await answer


def test_a_request_without_attributes_is_denied() -> None:
    assert Answer(check(b"")).status == 404


def test_bytes_that_are_no_request_are_an_error() -> None:
    """A-2: and errors are answered with 503."""
    with pytest.raises(DecodeError):
        check(b"\xff")


async def test_who_the_policy_names_passes_and_others_do_not() -> None:
    """A-12: rows 2, 5 and 6."""
    async with room() as here:
        assert here.ask(headers=cookie("s-ada")).allowed
        assert here.ask(headers=cookie("s-mallory")).status == 403
        assert here.ask().status == 302
        assert here.ask(headers=cookie("s-gone")).status == 302


async def test_a_route_is_what_our_configuration_calls_it_and_nothing_a_visitor_says() -> None:
    """A-1."""
    async with room(with_route(route(ANYBODY, id="open"))) as here:
        assert here.ask(route_id="open").allowed
        assert here.ask(headers={"route_id": "open", "x-pomerium-route-id": "open"}).status == 302
        assert here.ask(route_id="unknown", headers=cookie("s-ada")).status == 404
        assert here.ask("/ping", headers={"internal": "true"}).status == 302


@pytest.mark.parametrize("closed", [CLOSED, RoutePolicy(closed="policy-invalid"), RoutePolicy()])
async def test_a_route_without_a_policy_lets_nobody_in(closed: RoutePolicy) -> None:
    """A-2, A-33: and its neighbours are not affected."""
    async with room(with_route(route(id="r2", policy=closed))) as here:
        assert here.ask(route_id="r2", headers=cookie("s-ada")).status == 403
        assert here.ask(headers=cookie("s-ada")).allowed


@pytest.mark.parametrize("path", ALLOWED_PAGES)
async def test_our_own_pages_are_open_whatever_certificates_and_the_store_say(path: str) -> None:
    """A-28, L22: even when nobody can be looked up."""
    async with room() as here:
        here.stage.backend.cut()
        assert here.ask(path, internal=True, route_id="").allowed


@pytest.mark.parametrize("path", [*sorted(NEEDS_SESSION), "/.pomerium/%75ser", "/.pomerium/user?x=1", "/.pomerium/%ff"])
async def test_our_own_pages_about_the_visitor_need_a_session(path: str) -> None:
    """A-28, L21."""
    async with room() as here:
        assert here.ask(path, internal=True, route_id="").status == 302
        assert here.ask(path, cookie("s-ada"), internal=True, route_id="").allowed


@pytest.mark.parametrize(
    "headers",
    [
        {"x-pomerium-authorization": token("s-ada")},
        {"authorization": f"Pomerium {token('s-ada')}"},
        {"authorization": f"Bearer Pomerium-{token('s-ada')}"},
        cookie("s-ada"),
    ],
)
async def test_a_handle_is_found_wherever_it_may_be(headers: dict[str, str]) -> None:
    """A-5."""
    async with room() as here:
        assert here.ask(headers=headers).allowed
        assert here.ask(f"/?pomerium_session={token('s-ada')}").allowed


async def test_cookies_on_lines_of_their_own_are_told_apart() -> None:
    """A-4: joined with a comma, this cookie could not be read."""
    lines = (("cookie", "a=b"), ("cookie", f"_pomerium={token('s-ada')}"), ("accept", "x"))
    async with room() as here:
        assert here.ask(lines=lines).allowed


async def test_a_handle_of_another_identity_provider_is_none() -> None:
    """A-6, N-28: a service account has none and is not asked."""
    async with room(records=(*people_with_account(),)) as here:
        assert here.ask(headers=cookie("s-ada", idp_id="idp-2")).status == 302
        assert here.ask(headers=cookie("sa-1", idp_id="")).allowed
    async with room(with_route(route(idp_id="idp-2"))) as here:
        assert here.ask(headers=cookie("s-ada")).status == 302
        assert here.ask(headers=cookie("s-ada", idp_id="idp-2")).allowed


def people_with_account() -> tuple[Record, ...]:
    return (
        people.session("s-ada", "u-ada"),
        people.user("u-ada", "ada@example.com"),
        people.account("sa-1", "u-ada"),
    )


@pytest.mark.parametrize("bad", ["rubbish", token("s-gone"), token("s-mallory", idp_id="another")])
async def test_a_bad_cookie_does_not_hide_a_good_header(bad: str) -> None:
    """W3, and so not N-28's "the first source that is present decides": what nobody believes decides nothing."""
    headers = {"cookie": f"_pomerium={bad}", "authorization": f"Pomerium {token('s-ada')}"}
    async with room() as here:
        assert here.ask(headers=headers).allowed


async def test_while_the_store_is_silent_an_unknown_session_is_an_error_and_not_a_stranger() -> None:
    """A-8, N-30: 503; who is known goes on."""
    async with room() as here:
        here.stage.backend.cut()
        await here.stage.clock.advance(0)
        with pytest.raises(DatabrokerUnavailable):
            await here.ask_and_wait(
                headers=cookie("s-new", databroker_server_version=5, databroker_record_version=10**9)
            )
        assert (await here.ask_and_wait(headers=cookie("s-ada"))).allowed


async def test_a_login_works_at_once_though_the_log_is_late() -> None:
    """A-7, N-29: the version hint."""
    async with room() as here:
        here.stage.backend.lag()
        written = await here.stage.backend.put([people.session("s-new", "u-ada")])
        hint = {
            "databroker_server_version": written.server_version,
            "databroker_record_version": written.records[-1].version,
        }

        answer = await here.ask_and_wait(headers=cookie("s-new", **hint))

        assert answer.allowed


async def test_certificates_come_before_login() -> None:
    """A-12, row 1; A-18: whoever asks, a certificate that is not good is what they are told of first."""
    text = '[{"allow": {"and": [{"authenticated_user": 1}]}}, {"deny": {"or": [{"invalid_client_certificate": 1}]}}]'
    clients = root("clients", begins=people.NOW - timedelta(days=1), ends=people.NOW + timedelta(days=1))
    good = clients.sign("dev", begins=people.NOW, ends=people.NOW + timedelta(hours=1)).pem
    other = root("clients").sign("dev").pem
    async with room(with_route(route(text, client_trust=ClientTrust(ca=clients.pem)))) as here:
        assert here.ask().status == 495
        assert here.ask(headers=cookie("s-ada")).status == 495
        assert here.ask(headers=cookie("s-ada"), chain=other).status == 495
        assert here.ask(chain=other).status == 495
        assert here.ask(chain=good).status == 302
        assert here.ask(headers=cookie("s-ada"), chain=good).allowed
        here.stage.clock.jump(3601)
        assert here.ask(headers=cookie("s-ada"), chain=good).status == 495
    async with room(with_route(route(text, client_trust=ClientTrust()))) as here:
        assert here.ask(headers=cookie("s-ada"), chain=good).status == 495
    async with room(with_route(route(text))) as here:
        assert here.ask().status == 302


async def test_a_device_that_is_not_enrolled_is_sent_to_enrol() -> None:
    """A-12, row 3; authorize 10."""
    text = '[{"allow": {"and": [{"device": {"type": "enclave_only", "approved": true}}]}}]'
    async with room(with_route(route(text))) as here:
        answer = here.ask("/a?b=c", cookie("s-ada"))
        script = here.ask("/a", {**cookie("s-ada"), "accept": "application/json"})

    assert answer.status == 302
    location = answer.headers["location"]
    assert location.startswith("https://wiki.example.com/.pomerium/webauthn?pomerium_device_type=enclave_only&")
    assert "pomerium_redirect_uri=https%3A%2F%2Fwiki.example.com%2Fa%3Fb%3Dc" in location
    assert "&pomerium_signature=" in location
    assert (script.status, "Unauthenticated" in script.body) == (401, True)


BEARER = BearerRule(format=BearerFormat.JWT)


async def test_a_bearer_beside_a_cookie_is_ambiguous() -> None:
    """A-9: on routes that take JWTs."""
    async with room(with_route(route(bearer=BEARER))) as here:
        answer = here.ask(headers={**cookie("s-ada"), "authorization": "bEARER x"})

    assert answer.status == 400


async def test_an_invalid_bearer_never_falls_back_to_the_cookie() -> None:
    """A-10."""
    rule = BearerRule(format=BearerFormat.ACCESS_TOKEN)
    async with room(with_route(route(bearer=rule))) as here:
        assert here.ask(headers={**cookie("s-ada"), "authorization": "Bearer x"}).status == 403
        assert here.ask(headers=cookie("s-ada")).allowed
        assert here.ask(headers={"authorization": "Basic x", **cookie("s-ada")}).allowed


async def test_a_token_of_the_identity_provider_is_asked_about_as_one_of_the_routes_own() -> None:
    """A-6, A-9: the authenticate service is told whose it should be."""
    asked: list[object] = []

    async def verify(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return web.json_response({"valid": True, "claims": {"sub": "u-ada", "email": "ada@example.com"}})

    app = web.Application()
    app.router.add_post("/.pomerium/verify-access-token", verify)
    async with TestServer(app, host="127.0.0.1") as server, aiohttp.ClientSession() as http, room() as here:
        rule = BearerRule(format=BearerFormat.ACCESS_TOKEN, authenticate_url=str(server.make_url("")))
        own, other = route(bearer=rule, id="own", idp_id="idp-2"), route(bearer=rule, id="other")
        here.rules.set(with_route(own, with_route(other)))
        stage = here.stage
        bearers = Bearers(sessions=here.sessions, backend=stage.backend, http=http, clock=stage.clock)
        checker = Checker(here.rules, here.sessions, stage.clock, bearers=bearers)
        for id in ("own", "other"):
            answer = checker.check(question(headers={"authorization": "Bearer opaque"}, route_id=id))
            assert not isinstance(answer, bytes)
            assert Answer(await answer).allowed

    assert asked == [{"accessToken": "opaque", "identityProviderId": id} for id in ("idp-2", IDP)]


async def test_elsewhere_bearers_belong_to_the_upstream() -> None:
    async with room() as here:
        answer = here.ask(headers={**cookie("s-ada"), "authorization": "Bearer x"})

    assert answer.allowed
    assert "authorization" not in answer.removed


async def test_a_service_account_token_of_kubernetes_is_never_sent_without_a_user() -> None:
    """A-26."""
    rules = with_route(route(ANYBODY, kubernetes=True, kubernetes_token=Secret("k8s\n")))
    async with room(rules, records=(*people_with_account(), people.session("s-nomail", "u-nomail"))) as here:
        assert here.ask().status == 403
        assert here.ask(headers=cookie("s-nomail")).status == 403
        answer = here.ask(headers=cookie("s-ada"))

    assert answer.headers["authorization"] == "Bearer k8s"
    assert answer.headers["impersonate-user"] == "ada@example.com"


@pytest.mark.parametrize("email", [" ", " root@example.com", "root@example.com\t", "a\x00b", "a\r\nx: y"])
async def test_nobody_is_impersonated_by_a_name_that_a_header_would_change(email: str) -> None:
    """A-26: what arrived might be nobody, and so the token itself, or somebody else."""
    rules = with_route(route(ANYBODY, kubernetes=True, kubernetes_token=Secret("k8s")))
    odd = (people.session("s-odd", "u-odd", idp_id="idp-1"), people.user("u-odd", email))
    async with room(rules, records=odd) as here:
        assert here.ask(headers=cookie("s-odd")).status == 403


async def test_the_use_of_a_session_is_noted_also_when_the_answer_was_remembered() -> None:
    """A-31."""
    access = AccessTracker(ManualClock())
    async with room(access=access) as here:
        here.ask(headers=cookie("s-ada"))
        here.ask(headers=cookie("s-ada"))
        assert len(access) == 1


async def test_a_new_configuration_counts_from_the_next_request_on() -> None:
    """A-33."""
    async with room() as here:
        assert here.ask(headers=cookie("s-ada")).allowed
        here.rules.set(with_route(route(NOBODY)))
        assert here.ask(headers=cookie("s-ada")).status == 403
        here.rules.set(RULES)
        assert here.ask(headers=cookie("s-ada")).allowed


async def test_handles_grow_too_old() -> None:
    """W2."""
    rules = replace(RULES, handle_lifetime=timedelta(hours=1))
    async with room(rules) as here:
        issued = int(here.stage.clock.now().timestamp())
        headers = cookie("s-ada", issued_at=issued)
        assert here.ask(headers=headers).allowed
        here.stage.clock.jump(3601)
        assert here.ask(headers=headers).status == 302


async def test_a_preflight_reaches_the_upstream_when_the_policy_says_so() -> None:
    """A-29: otherwise it is told to log in, without a redirect, which browsers would take for a failure."""
    text = '[{"allow": {"or": [{"cors_preflight": 1}, {"authenticated_user": 1}]}}]'
    preflight = {"origin": "https://a.example.com", "access-control-request-method": "PUT", "accept": "*/*"}
    async with room(with_route(route(text, id="cors"))) as here:
        assert here.ask(headers=preflight, method="OPTIONS", route_id="cors").allowed
        assert here.ask(headers={}, method="OPTIONS", route_id="cors").status == 401
        assert here.ask(headers=preflight, method="OPTIONS").status == 401


async def test_the_path_that_policies_see_is_decoded_and_the_address_is_the_peers() -> None:
    """A-3."""
    text = '[{"allow": {"and": [{"http_path": {"is": "/a b"}}, {"source_ip": "203.0.113.0/24"}]}}]'
    async with room(with_route(route(text))) as here:
        assert here.ask("/a%20b?c").allowed
        assert here.ask("/a%20b", ip="::ffff:203.0.113.9").allowed
        assert here.ask("/a%2xb").status == 400
        assert here.ask("/a%20b", {"x-forwarded-for": "203.0.113.7"}, ip="198.51.100.1").status == 403
        assert here.ask("/a%20b", ip="no address").status == 403


async def test_a_visitor_who_may_not_sees_a_page() -> None:
    async with room() as here:
        answer = here.ask(headers={**cookie("s-mallory"), "accept": BROWSER})

    assert answer.headers["content-type"] == "text/html; charset=UTF-8"
    assert "mallory@example.com" in answer.body


class OnlyByKey(dict[str, RouteRules]):
    """Rules of routes that nobody may walk through."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("somebody walks through all routes")

    def items(self) -> Any:
        raise AssertionError("somebody walks through all routes")

    values = keys = items


async def test_a_route_is_found_by_its_id_and_no_other_is_looked_at() -> None:
    """R-30: as fast among ten thousand as among two."""
    many = {f"r{n}": route(ANYBODY, id=f"r{n}") for n in range(3)} | dict(RULES.routes)
    rules = replace(RULES, routes=OnlyByKey(many))
    async with room() as here:
        checker = Checker(Latest(rules), here.sessions, ManualClock())

        assert Answer(await _awaited(checker.check(question(headers=cookie("s-ada"))))).allowed
        assert not Answer(await _awaited(checker.check(question(headers=cookie("s-mallory"))))).allowed
