"""The clock that tests move by hand keeps the promise of runtime.clock.Clock."""

import asyncio

from pomerium_agent.runtime.clock import Clock
from tests.fakes.clock import ManualClock


async def test_sleepers_wake_in_the_order_of_their_hour_and_see_that_hour() -> None:
    clock = ManualClock()
    began = clock.monotonic()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            woken.append((name, clock.monotonic() - began))

    async with asyncio.TaskGroup() as group:
        group.create_task(sleeper("twice", 10, 10))
        group.create_task(sleeper("once", 15))
        await clock.advance(30)

    assert woken == [("twice", 10.0), ("once", 15.0), ("twice", 20.0)]
    assert clock.monotonic() - began == 30


async def test_nobody_wakes_before_the_clock_was_moved() -> None:
    clock: Clock = ManualClock()
    assert isinstance(clock, ManualClock)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(clock.sleep(5))
        await clock.until_sleeping()
        await clock.advance(4.5)
        assert not task.done()
        task.cancel()

    assert task.cancelled()
    assert clock.sleeping == 0
