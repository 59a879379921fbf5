"""The token cache: how long a bearer is used, and how many exchanges there are."""

import asyncio
from datetime import timedelta

import pytest

from pomerium_agent.errors import ControlPlaneUnavailable
from pomerium_agent.settings import Secret
from pomerium_agent.zero.token import API_MIN_TTL, CONNECT_MIN_TTL, Bearer, TokenCache
from tests.fakes.clock import ManualClock


class Exchange:
    """Gives bearer-1, bearer-2, … good for an hour; waits for `go`, and fails as often as told."""

    def __init__(self) -> None:
        self.count = 0
        self.failures = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self) -> Bearer:
        self.count += 1
        number = self.count
        await self.go.wait()
        if self.failures:
            self.failures -= 1
            raise ControlPlaneUnavailable("no")
        return Bearer(Secret(f"bearer-{number}"), timedelta(hours=1))


async def test_a_bearer_is_used_again_only_while_it_outlives_what_is_asked() -> None:
    """Z-12."""
    clock, exchange = ManualClock(), Exchange()
    tokens = TokenCache(exchange, clock)

    first = await tokens.bearer(CONNECT_MIN_TTL)
    clock.jump(299)
    same = await tokens.bearer(CONNECT_MIN_TTL)
    clock.jump(2)
    another = await tokens.bearer(CONNECT_MIN_TTL)
    clock.jump(3299)
    same_as_another = await tokens.bearer(API_MIN_TTL)
    clock.jump(1)

    assert (first, same, another, same_as_another) == ("bearer-1", "bearer-1", "bearer-2", "bearer-2")
    assert await tokens.bearer(API_MIN_TTL) == "bearer-3"


async def test_many_callers_at_once_cause_one_exchange() -> None:
    """Z-12."""
    exchange = Exchange()
    exchange.go.clear()
    tokens = TokenCache(exchange, ManualClock())

    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(tokens.bearer(CONNECT_MIN_TTL)) for _ in range(20)]
        await asyncio.sleep(0)
        exchange.go.set()

    assert {caller.result() for caller in callers} == {"bearer-1"}
    assert exchange.count == 1


async def test_a_failure_is_not_remembered() -> None:
    """Zero link 5."""
    exchange = Exchange()
    exchange.failures = 1
    tokens = TokenCache(exchange, ManualClock())

    with pytest.raises(ControlPlaneUnavailable):
        await tokens.bearer(API_MIN_TTL)

    assert await tokens.bearer(API_MIN_TTL) == "bearer-2"


async def test_the_next_caller_exchanges_when_the_first_gives_up() -> None:
    exchange = Exchange()
    exchange.go.clear()
    tokens = TokenCache(exchange, ManualClock())

    async with asyncio.TaskGroup() as group:
        impatient = group.create_task(tokens.bearer(API_MIN_TTL))
        await asyncio.sleep(0)
        patient = group.create_task(tokens.bearer(API_MIN_TTL))
        await asyncio.sleep(0)
        impatient.cancel()
        exchange.go.set()

    assert patient.result() == "bearer-2"


async def test_a_refused_bearer_is_dropped_once_and_its_successor_stays() -> None:
    """Z-11, W2: many calls may learn of the same refusal."""
    exchange = Exchange()
    tokens = TokenCache(exchange, ManualClock())
    refused = await tokens.bearer(API_MIN_TTL)

    tokens.reset(refused)
    fresh = await tokens.bearer(API_MIN_TTL)
    tokens.reset(refused)

    assert await tokens.bearer(API_MIN_TTL) == fresh == "bearer-2"
    assert exchange.count == 2
