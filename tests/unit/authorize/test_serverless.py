"""Google's proof of who we are: kept beside the checks, never a reason to turn anybody away (authorize 16)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from pomerium_agent.authorize.check import Checker
from pomerium_agent.authorize.rules import Rules
from pomerium_agent.authorize.serverless import ServerlessTokens
from pomerium_agent.config.google import parse_google_account
from pomerium_agent.config.snapshot import GoogleAccount
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from tests.fakes.clock import ManualClock
from tests.fakes.google import EMAIL, Google
from tests.unit.authorize.asking import ANYBODY, RULES, Answer, question, room, route, with_route

ONE, OTHER = "https://one.run.app", "https://other.run.app"
MACHINE = "machine@project.iam.gserviceaccount.com"


def wanting(*audiences: str, account: GoogleAccount | None = None) -> Rules:
    rules = replace(RULES, google_account=account)
    for number, audience in enumerate(audiences):
        rules = with_route(route(ANYBODY, id=f"r{number}", serverless_audience=audience), rules)
    return rules


class Stage:
    """Google, tokens, and a clock that tests move."""

    def __init__(self, google: Google, http: aiohttp.ClientSession, rules: Rules, **options: Any) -> None:
        self.google = google
        self.clock = ManualClock()
        google.now = self.clock.now
        self.health = Health()
        self.rules = Latest(rules)
        self.tokens = ServerlessTokens(self.rules, http, self.clock, self.health, metadata=google.url, **options)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not true():  # noqa: ASYNC110  # what is waited for happens in sockets and threads
                await asyncio.sleep(0.005)

    async def tried(self, *audiences: str) -> None:
        await self.until(lambda: not any(self.tokens.awaited(audience) for audience in audiences))

    @property
    def error(self) -> str:
        return self.health.reports[Check.SERVERLESS].error


@asynccontextmanager
async def open_stage(
    rules: Callable[[Google], Rules] | Rules, *, running: bool = True, **options: Any
) -> AsyncIterator[Stage]:
    google = Google()
    async with google.serve(), aiohttp.ClientSession() as http, asyncio.TaskGroup() as group:
        stage = Stage(google, http, rules(google) if callable(rules) else rules, **options)
        keeping = group.create_task(stage.tokens.run()) if running else None
        yield stage
        if keeping is not None:
            keeping.cancel()


def by_account(google: Google) -> Rules:
    return wanting(ONE, account=parse_google_account(google.key_file))


async def test_a_service_account_gets_a_token_for_the_audience() -> None:
    async with open_stage(by_account) as stage:
        await stage.tried(ONE)
        token = stage.tokens.token(ONE)

    assert stage.google.who(token) == (ONE, EMAIL)
    claims = stage.google.assertions[0]
    assert (claims["sub"], claims["aud"]) == (EMAIL, f"{stage.google.url}/token")
    assert claims["exp"] - claims["iat"] == 3600
    assert stage.health.reports[Check.SERVERLESS].healthy


async def test_without_an_account_the_metadata_server_is_asked() -> None:
    async with open_stage(wanting(ONE, OTHER)) as stage:
        await stage.tried(ONE, OTHER)
        found = [stage.google.who(stage.tokens.token(audience)) for audience in (ONE, OTHER)]

    assert found == [(ONE, MACHINE), (OTHER, MACHINE)]


async def test_a_token_is_kept_for_45_minutes_and_then_fetched_beside_the_checks() -> None:
    async with open_stage(wanting(ONE)) as stage:
        await stage.tried(ONE)
        first = stage.tokens.token(ONE)
        await stage.clock.until_sleeping()
        await stage.clock.advance(2699)
        assert (stage.tokens.token(ONE), len(stage.google.asked)) == (first, 1)

        await stage.clock.advance(2)
        await stage.until(lambda: stage.tokens.token(ONE) != first)

    assert len(stage.google.asked) == 2
    assert stage.google.who(stage.tokens.token(ONE)) == (ONE, MACHINE)


async def test_a_token_that_cannot_be_renewed_is_used_until_shortly_before_its_end() -> None:
    async with open_stage(wanting(ONE)) as stage:
        await stage.tried(ONE)
        first = stage.tokens.token(ONE)
        stage.google.status = 500
        await stage.clock.until_sleeping()
        await stage.clock.advance(2701)
        await stage.until(lambda: bool(stage.error))
        stage.clock.jump(3500 - 2701)
        assert stage.tokens.token(ONE) == first
        stage.clock.jump(41)
        assert stage.tokens.token(ONE) == ""


async def test_a_failure_is_said_once_and_tried_again_until_it_passes() -> None:
    """On error the header is omitted, and the operator hears of it."""
    with capture_logs() as logs:
        async with open_stage(wanting(ONE)) as stage:
            stage.google.status = 503
            await stage.tried(ONE)
            assert stage.tokens.token(ONE) == ""
            assert "answered 503" in stage.error
            for _ in range(3):
                asked = len(stage.google.asked)
                await stage.clock.until_sleeping()
                await stage.clock.advance(100)  # more than any wait
                await stage.until(lambda asked=asked: len(stage.google.asked) > asked)  # type: ignore[misc]
            stage.google.status = 200
            await stage.clock.until_sleeping()
            await stage.clock.advance(100)  # more than any wait
            await stage.until(lambda: bool(stage.tokens.token(ONE)))
            assert stage.health.reports[Check.SERVERLESS].healthy

    said = [line for line in logs if line["event"].startswith("no identity token")]
    assert [line["audience"] for line in said] == [ONE]


@pytest.mark.parametrize("answer", ["", "<html>", "a.b", "a.b.c d", "a.b.c\nx", "é.b.c", "x" * 70_000])
@pytest.mark.parametrize("how", [by_account, wanting(ONE)], ids=["account", "metadata"])
async def test_what_is_no_token_goes_nowhere(answer: str, how: Any) -> None:
    async with open_stage(how) as stage:
        stage.google.answer = answer
        await stage.tried(ONE)

        assert stage.tokens.token(ONE) == ""
        assert stage.error


@pytest.mark.parametrize("answer", ["[]", '{"id_token": 1}', "{}", "[" * 50_000])
async def test_an_endpoint_that_answers_with_something_else_gives_no_token(answer: str) -> None:
    async with open_stage(by_account) as stage:
        stage.google.answer = answer
        await stage.tried(ONE)

        assert stage.tokens.token(ONE) == ""
        assert "did not answer with a token" in stage.error


async def test_an_account_that_cannot_be_used_is_not_the_machines() -> None:
    async with open_stage(wanting(ONE, account=GoogleAccount())) as stage:
        await stage.tried(ONE)

    assert stage.tokens.token(ONE) == ""
    assert stage.google.asked == []
    assert "cannot be used" in stage.error


async def test_another_account_is_another_token_from_that_moment_on() -> None:
    """A-33: what was fetched as somebody else is never sent again."""
    async with open_stage(by_account) as stage:
        await stage.tried(ONE)
        assert stage.google.who(stage.tokens.token(ONE)) == (ONE, EMAIL)
        stage.rules.set(wanting(ONE))
        assert stage.tokens.token(ONE) == ""  # at once
        await stage.until(lambda: bool(stage.tokens.token(ONE)))

        assert stage.google.who(stage.tokens.token(ONE)) == (ONE, MACHINE)


async def test_what_no_route_wants_any_more_is_not_fetched_any_more() -> None:
    async with open_stage(wanting(ONE, OTHER)) as stage:
        await stage.tried(ONE, OTHER)
        await stage.clock.until_sleeping(2)
        stage.rules.set(wanting(OTHER))
        await stage.until(lambda: stage.clock.sleeping == 1)
        await stage.clock.advance(2701)
        await stage.until(lambda: len(stage.google.asked) == 3)

    assert stage.google.asked[2] == OTHER


async def test_a_check_waits_for_the_first_answer_and_for_none_after_it() -> None:
    async with room(wanting(ONE)) as here, open_stage(wanting(ONE), first_seconds=30) as stage:
        stage.google.answering.clear()
        checker = Checker(here.rules, here.sessions, here.stage.clock, serverless=stage.tokens)
        first = checker.check(question(route_id="r0"))
        assert not isinstance(first, bytes)
        asking = asyncio.ensure_future(first)
        await stage.until(lambda: bool(stage.google.asked))
        stage.google.answering.set()
        answer = Answer(await asking)
        second = checker.check(question(route_id="r0", headers={"x-serverless-authorization": "forged"}))

    assert stage.google.who(answer.headers["x-serverless-authorization"].removeprefix("Bearer ")) == (ONE, MACHINE)
    assert isinstance(second, bytes)
    assert Answer(second).headers == answer.headers


async def test_a_check_goes_on_without_a_token_that_does_not_come() -> None:
    """The request continues, and what a client made up is taken off."""
    async with open_stage(wanting(ONE), running=False, first_seconds=0.01) as stage, room(wanting(ONE)) as here:
        checker = Checker(here.rules, here.sessions, here.stage.clock, serverless=stage.tokens)
        waited = checker.check(question(route_id="r0", headers={"x-serverless-authorization": "forged"}))
        assert not isinstance(waited, bytes)
        answer = Answer(await waited)

    assert answer.allowed
    assert "x-serverless-authorization" in answer.removed


async def test_a_token_is_never_used_for_longer_than_google_would_give_one() -> None:
    async with open_stage(wanting(ONE)) as stage:
        stage.google.now = lambda: stage.clock.now() + timedelta(days=1)
        await stage.tried(ONE)
        assert stage.tokens.token(ONE)
        stage.clock.jump(3541)
        assert stage.tokens.token(ONE) == ""
