"""The machinery that knows nothing of Pomerium: waiting, retrying, passing state, saying how one is."""

import asyncio
import itertools
import random
import threading

import pytest

from pomerium_agent.errors import Refused, Retryable
from pomerium_agent.runtime.backoff import Backoff, loop, patient
from pomerium_agent.runtime.health import Health, Report, Status
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.supervisor import SETTLED_AFTER, supervise, until_done
from pomerium_agent.runtime.waiting import in_thread_to_the_end
from tests.fakes.clock import ManualClock


class Middle(random.Random):
    """Jitter that always lands in the middle."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def test_waits_grow_by_the_factor_up_to_the_cap() -> None:
    """Zero link, B1."""
    backoff = Backoff(random=Middle())

    waits = [round(backoff.next(), 3) for _ in range(14)]

    assert waits[:4] == [0.5, 0.75, 1.125, 1.688]
    assert waits[-1] == 60.0


def test_jitter_is_applied_after_the_cap() -> None:
    """Zero link: a wait can reach one and a half times the cap."""
    backoff = Backoff(first=60.0, random=random.Random(4))

    waits = [backoff.next() for _ in range(200)]

    assert 30.0 <= min(waits) < 35.0
    assert 85.0 < max(waits) <= 90.0


def test_a_reset_makes_the_next_failure_a_first_one() -> None:
    backoff = Backoff(random=Middle())
    backoff.next()
    backoff.next()

    backoff.reset()

    assert backoff.next() == 0.5


def test_the_named_backoffs_are_those_of_the_specification() -> None:
    """Zero link, B1 and B2."""
    assert (patient().factor, patient().cap) == (1.5, 60.0)
    assert (loop().factor, loop().cap) == (2.0, 300.0)


async def test_a_reader_sees_the_present_value_and_then_the_newest() -> None:
    cell = Latest(1)
    readings = cell.follow()
    assert await anext(readings) == 1

    cell.set(2)
    cell.set(3)

    assert await anext(readings) == 3


async def test_a_reader_waits_while_nothing_changes() -> None:
    cell = Latest(1)
    readings = cell.follow()
    await anext(readings)

    waiting = asyncio.ensure_future(anext(readings))
    await asyncio.sleep(0)
    assert not waiting.done()
    cell.set(2)

    assert await waiting == 2


async def test_a_value_set_while_the_reader_was_busy_is_not_missed() -> None:
    cell = Latest(1)
    seen = []
    async for value in cell.follow():
        seen.append(value)
        if value == 1:
            cell.set(2)
        if value == 2:
            break

    assert seen == [1, 2]


async def test_what_may_pass_is_tried_again_after_a_wait() -> None:
    clock = ManualClock()
    tries: list[float] = []

    async def run() -> None:
        tries.append(clock.monotonic())
        raise Retryable("not yet")

    async with asyncio.TaskGroup() as group:
        service = group.create_task(supervise("test", run, clock=clock, backoff=Backoff(random=Middle())))
        while len(tries) < 3:
            await clock.advance(0.125)
        service.cancel()

    assert [round(b - a, 3) for a, b in itertools.pairwise(tries)] == [0.5, 0.75]


async def test_a_service_that_lived_long_starts_over_with_a_short_wait() -> None:
    clock = ManualClock()
    backoff = Backoff(random=Middle())
    for _ in range(5):
        backoff.next()
    tries: list[float] = []

    async def run() -> None:
        tries.append(clock.monotonic())
        if len(tries) == 1:
            clock.jump(SETTLED_AFTER + 1)
        raise Retryable("worn out")

    async with asyncio.TaskGroup() as group:
        service = group.create_task(supervise("test", run, clock=clock, backoff=backoff))
        while len(tries) < 2:
            await clock.advance(0.125)
        service.cancel()

    assert tries[1] - tries[0] - (SETTLED_AFTER + 1) == 0.5


async def test_a_refusal_is_never_retried() -> None:
    async def run() -> None:
        raise Refused("no")

    with pytest.raises(Refused):
        await supervise("test", run, clock=ManualClock(), backoff=patient())


async def test_a_service_that_returns_is_a_bug() -> None:
    async def run() -> None:
        return

    with pytest.raises(RuntimeError, match="test returned"):
        await supervise("test", run, clock=ManualClock(), backoff=patient())


async def test_a_step_is_tried_until_it_is_done() -> None:
    clock = ManualClock()
    tries = 0

    async def step() -> str:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Retryable("not yet")
        return "done"

    result = asyncio.ensure_future(until_done("test", step, clock=clock, backoff=patient()))
    while not result.done():
        await clock.advance(0.5)

    assert (await result, tries) == ("done", 3)


async def test_an_equal_report_is_dropped_and_a_different_one_is_not() -> None:
    """Z-52."""
    health = Health()
    reports = health.follow()
    health.failed("a", "no")
    assert (await anext(reports)).error == "no"

    health.failed("a", "no")
    health.failed("a", "still no")

    assert (await anext(reports)).error == "still no"


async def test_a_new_reader_gets_the_latest_report_of_every_check() -> None:
    """Z-54."""
    health = Health()
    health.failed("a", "no")
    health.running("b")
    health.running("a")

    reports = health.follow()

    assert [(await anext(reports)).check for _ in range(2)] == ["b", "a"]


def test_an_error_keeps_the_status_it_found() -> None:
    """Zero link 13.1."""
    health = Health()
    health.running("a")

    health.failed("a", "no")

    assert health.reports["a"] == Report("a", Status.RUNNING, "no", {})
    assert not health.reports["a"].healthy


def test_a_check_that_recovers_is_healthy_again() -> None:
    health = Health()
    health.failed("a", "no")

    health.running("a", detail="fine")

    assert health.reports["a"].healthy
    assert health.reports["a"].attributes == {"detail": "fine"}


async def test_what_a_thread_does_is_over_when_its_cancellation_is() -> None:
    """What was written half-way must not be finished after something newer."""
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def write() -> None:
        begun.set()
        assert go_on.wait(10)
        done.set()

    writing = asyncio.create_task(in_thread_to_the_end(write))
    assert await asyncio.to_thread(begun.wait, 10)
    writing.cancel()
    _, left = await asyncio.wait({writing}, timeout=0.05)
    assert left
    go_on.set()

    with pytest.raises(asyncio.CancelledError):
        await writing
    assert done.is_set()


async def test_a_thread_that_hangs_does_not_hold_up_whoever_cancels_it() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> bool:
        begun.set()
        return go_on.wait(10)

    writing = asyncio.create_task(in_thread_to_the_end(hang, patience=0.05))
    assert await asyncio.to_thread(begun.wait, 10)
    writing.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await writing
    go_on.set()


async def test_what_fails_in_a_thread_is_told() -> None:
    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await in_thread_to_the_end(fail)
