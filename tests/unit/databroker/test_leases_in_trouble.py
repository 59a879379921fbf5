"""A job under a lease never runs twice at once, whatever the network and the clock do (zero link 9; Z-29, Z-30)."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomerium_agent.databroker import MemoryBackend
from pomerium_agent.errors import DatabrokerUnavailable
from tests.fakes.clock import ManualClock, settle
from tests.unit.databroker.test_leases import TTL, Job, holding

REPLICAS = 3


class Line(MemoryBackend):
    """One replica's way to the store they share. Requests and answers can be lost, or take their time."""

    def __init__(self, store: MemoryBackend, clock: ManualClock) -> None:
        super().__init__(clock)
        self.store = store
        self.time = clock
        self.there = 0.0  # seconds until a request arrives
        self.back = 0.0  # and its answer
        self.cut = False

    async def lease(self, name: str, holder: str, ttl: timedelta) -> bool:
        await self._cross(self.there)
        taken = await self.store.lease(name, holder, ttl)
        await self._cross(self.back)
        return taken

    async def release(self, name: str, holder: str) -> None:
        await self._cross(self.there)
        await self.store.release(name, holder)
        await self._cross(self.back)

    async def _cross(self, seconds: float) -> None:
        if seconds:
            await self.time.sleep(seconds)
        if self.cut:
            raise DatabrokerUnavailable("the line is cut")


@dataclass(slots=True)
class Watch:
    """Who works; complains when two do."""

    working: set[int] = field(default_factory=set)
    most: int = 0
    turns: int = 0

    async def work(self, replica: int) -> None:
        self.working.add(replica)
        self.most = max(self.most, len(self.working))
        self.turns += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.working.discard(replica)


@dataclass(frozen=True, slots=True)
class Trouble:
    """From now on a replica's line is like this; and then time passes."""

    replica: int
    cut: bool
    there: float
    back: float
    seconds: float
    set_clock: int  # hours that somebody sets the time of day forward or back


seconds = st.sampled_from([0.0, 0.0, 0.5, 3.0, 14.0, 29.0, 31.0, 70.0])
troubles = st.builds(
    Trouble,
    replica=st.integers(0, REPLICAS - 1),
    cut=st.booleans(),
    there=seconds,
    back=seconds,
    seconds=st.sampled_from([0.5, 7.0, 15.0, 27.0, 30.0, 45.0]),
    set_clock=st.sampled_from([0, 0, -48, 1]),
)


@settings(max_examples=60)
@given(history=st.lists(troubles, max_size=25))
def test_a_job_never_runs_at_two_replicas_and_runs_again_when_the_trouble_is_over(history: list[Trouble]) -> None:
    """Lost requests, answers that come late or not at all, and a time of day that somebody sets."""

    async def check() -> None:
        clock, watch = ManualClock(), Watch()
        store = MemoryBackend(clock)
        lines = [Line(store, clock) for _ in range(REPLICAS)]
        async with AsyncExitStack() as stack:
            for number, line in enumerate(lines):
                await stack.enter_async_context(holding(line, partial(watch.work, number), clock))
            for trouble in history:
                line = lines[trouble.replica]
                line.cut, line.there, line.back = trouble.cut, trouble.there, trouble.back
                clock._now += timedelta(hours=trouble.set_clock)
                await clock.advance(trouble.seconds)
            for line in lines:
                line.cut, line.there, line.back = False, 0.0, 0.0
            await clock.advance(600)
            assert len(watch.working) == 1
        assert watch.most == 1
        assert watch.working == set()

    asyncio.run(check())


async def test_a_replica_that_was_paused_past_its_lease_stops_before_anything_else() -> None:
    """It wakes to find that its time is over, whatever its timers were set to.

    A step of the job that had begun when it was paused may still end: no lease can prevent that.
    """
    clock = ManualClock()
    store = MemoryBackend(clock)
    line, job, other = Line(store, clock), Job(clock), Job(clock)
    async with holding(line, job, clock):
        assert job.running()
        clock.jump(60)  # nobody ran meanwhile
        line.cut = True
        await clock.advance(0)
        await settle()

        assert not job.running()
        async with holding(store, other, clock):
            assert other.running()


@pytest.mark.parametrize("late", [20.0, 28.0, 40.0])
async def test_an_answer_that_comes_late_counts_from_before_the_question(late: float) -> None:
    """The store's clock ran meanwhile: what it granted is shorter by the way of the question and the answer."""
    clock = ManualClock()
    store = MemoryBackend(clock)
    line, job = Line(store, clock), Job(clock)
    line.back = late
    began = clock.monotonic()
    async with holding(line, job, clock):
        await clock.advance(late)
        assert job.running() == (late < TTL.total_seconds() * 0.9)
        if job.running():
            await clock.advance(27.5 - late)
            assert job.stopped_at is not None
            assert job.stopped_at - began < TTL.total_seconds()
        line.back = 0.0
        await clock.advance(late)
