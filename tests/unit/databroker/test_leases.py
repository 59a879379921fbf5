"""Holding a lease while a job runs (zero link 9; Z-29 to Z-31, W13). The clock is moved by hand."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from random import Random
from typing import NoReturn

import pytest

from pomerium_agent.databroker import Backend, MemoryBackend, hold_lease
from pomerium_agent.databroker.leases import Holder
from pomerium_agent.errors import ControlPlaneUnavailable, DatabrokerUnavailable, Refused
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.supervisor import supervise
from tests.fakes.clock import ManualClock, settle

NAME = "zero-ctrl"
TTL = timedelta(seconds=30)


class Line(MemoryBackend):
    """One replica's way to a store that others reach too; it can be cut, or go silent."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.store = MemoryBackend(clock)
        self.cut = False
        self.silent = False
        self.asked = 0
        self.holder = ""

    async def lease(self, name: str, holder: str, ttl: timedelta) -> bool:
        await self._cross()
        self.holder = holder
        return await self.store.lease(name, holder, ttl)

    async def release(self, name: str, holder: str) -> None:
        await self._cross()
        await self.store.release(name, holder)

    async def _cross(self) -> None:
        self.asked += 1
        if self.silent:
            await asyncio.Event().wait()
        if self.cut:
            raise DatabrokerUnavailable("the line is cut")


class Job:
    """A job that runs until it is stopped, and tells when."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._running = False
        self.starts = 0
        self.stopped_at: float | None = None

    def running(self) -> bool:
        return self._running

    async def __call__(self) -> None:
        self._running = True
        self.starts += 1
        try:
            await asyncio.Event().wait()
        finally:
            self._running = False
            self.stopped_at = self._clock.monotonic()


@asynccontextmanager
async def holding(
    backend: Backend, run: Callable[[], Awaitable[None]], clock: ManualClock
) -> AsyncIterator[asyncio.Task[NoReturn]]:
    """The lease is wanted for `run` within this block, under a supervisor as in the agent."""

    async def lead() -> None:
        await hold_lease(backend, NAME, TTL, run, clock)

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        task = group.create_task(supervise("lease", lead, clock=clock, backoff=Backoff()))
        await settle()
        try:
            yield task
        finally:
            task.cancel()


async def test_the_job_runs_while_the_lease_is_held_and_the_lease_is_given_back() -> None:
    """Z-29, Z-30, Z-64."""
    clock = ManualClock()
    backend = Line(clock)
    job = Job(clock)

    async with holding(backend, job, clock):
        assert job.running()
        await clock.advance(600)
        assert job.running()
        assert job.starts == 1
        assert not await backend.store.lease(NAME, "another", TTL)

    assert not job.running()
    assert await backend.store.lease(NAME, "another", TTL)


async def test_a_lease_is_renewed_every_half_of_its_time() -> None:
    """Z-29."""
    clock = ManualClock()
    backend = Line(clock)

    async with holding(backend, Job(clock), clock):
        for asked in range(1, 5):
            assert backend.asked == asked
            await clock.advance(14)
            assert backend.asked == asked
            await clock.advance(1)


async def test_a_second_replica_waits_its_turn_and_takes_over_within_a_tick_of_the_release() -> None:
    """Z-29, Z-30."""
    clock = ManualClock()
    backend = MemoryBackend(clock)
    one, two = Job(clock), Job(clock)

    async with holding(backend, one, clock) as first, holding(backend, two, clock):
        await clock.advance(300)
        assert (one.running(), two.running()) == (True, False)

        first.cancel()
        await settle()
        assert (one.running(), two.running()) == (False, False)
        await clock.advance(15)
        assert (one.running(), two.running()) == (False, True)


async def test_a_renewal_that_fails_for_a_while_stops_nothing() -> None:
    """W13."""
    clock = ManualClock()
    backend = Line(clock)
    job = Job(clock)

    async with holding(backend, job, clock):
        backend.cut = True
        await clock.advance(24)  # taken at 0, renewal due at 15, expires at 30
        assert job.running()

        backend.cut = False
        await clock.advance(60)
        assert job.running()
        assert job.starts == 1


@pytest.mark.parametrize("silent", [False, True])
async def test_a_lease_that_cannot_be_renewed_stops_the_job_before_it_expires(silent: bool) -> None:
    """Z-29: whether the renewals fail or hang; nobody else can have started by then."""
    clock = ManualClock()
    backend = Line(clock)
    job, other = Job(clock), Job(clock)
    began = clock.monotonic()

    async with holding(backend, job, clock):
        backend.cut, backend.silent = not silent, silent
        async with holding(backend.store, other, clock):
            await clock.advance(29)
            assert not job.running()
            assert not other.running()
            assert job.stopped_at is not None
            assert job.stopped_at - began < TTL.total_seconds()

            await clock.advance(45)
            assert other.running()


async def test_a_lease_that_another_took_stops_the_job_and_is_wanted_again() -> None:
    """Z-29: the store says so at the next renewal."""
    clock = ManualClock()
    backend = Line(clock)
    job = Job(clock)

    async with holding(backend, job, clock):
        await backend.store.release(NAME, backend.holder)  # what an operator at the database could do
        assert await backend.store.lease(NAME, "usurper", TTL)

        await clock.advance(15)
        assert not job.running()
        await clock.advance(45)
        assert job.running()
        assert job.starts == 2


async def test_a_job_that_ends_gives_the_lease_back_and_is_done() -> None:
    clock = ManualClock()
    backend = MemoryBackend(clock)

    async with asyncio.timeout(5):
        await hold_lease(backend, NAME, TTL, settle, clock)

    assert await backend.lease(NAME, "another", TTL)
    assert clock.sleeping == 0


@pytest.mark.parametrize("error", [ControlPlaneUnavailable("soon"), Refused("no"), RuntimeError("a bug")])
async def test_an_error_of_the_job_leaves_as_it_is_and_gives_the_lease_back(error: Exception) -> None:
    """Zero link 9: the supervisor above sees what it knows how to handle, not a group."""
    clock = ManualClock()
    backend = MemoryBackend(clock)

    async def fail() -> None:
        await settle()
        raise error

    async with asyncio.timeout(5):
        with pytest.raises(type(error)) as left:
            await hold_lease(backend, NAME, TTL, fail, clock)

    assert left.value is error
    assert await backend.lease(NAME, "another", TTL)


async def test_the_failure_of_one_job_under_the_lease_leaves_the_others_alone() -> None:
    """Z-31: each job under its own supervisor."""
    clock = ManualClock()
    steady = Job(clock)
    failures = 0

    async def shaky() -> None:
        nonlocal failures
        failures += 1
        raise ControlPlaneUnavailable("no answer")

    async def jobs() -> None:
        async with asyncio.TaskGroup() as group:
            for name, job in (("steady", steady), ("shaky", shaky)):
                group.create_task(supervise(name, job, clock=clock, backoff=Backoff(random=Random(1))))

    async with holding(MemoryBackend(clock), jobs, clock):
        await clock.advance(20)
        assert failures > 3
        assert steady.running()
        assert steady.starts == 1


async def test_a_store_out_of_reach_at_first_is_the_supervisors_business() -> None:
    """Z-65: acquiring fails as DatabrokerUnavailable; the supervisor comes again."""
    clock = ManualClock()
    backend = Line(clock)
    backend.cut = True
    job = Job(clock)

    with pytest.raises(DatabrokerUnavailable):
        await hold_lease(backend, NAME, TTL, job, clock)

    async with holding(backend, job, clock):
        await clock.advance(5)
        assert not job.running()
        backend.cut = False
        await clock.advance(5)
        assert job.running()


async def test_an_order_to_stop_is_obeyed_even_at_the_moment_the_lease_is_lost() -> None:
    clock = ManualClock()
    backend = Line(clock)
    at_the_moment: list[asyncio.Task[NoReturn]] = []

    async def job() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            at_the_moment[0].cancel()

    async with holding(backend, job, clock) as task:
        at_the_moment.append(task)
        backend.cut = True
        await clock.advance(40)

        assert task.cancelled()


async def test_giving_back_over_a_cut_line_does_not_hold_up_the_stop() -> None:
    """Zero link 9: always tried, result ignored."""
    clock = ManualClock()
    backend = Line(clock)

    async with holding(backend, Job(clock), clock) as task:
        backend.cut = True
        task.cancel()
        await settle()

        assert task.cancelled()
        assert backend.asked == 2


async def test_who_never_had_the_lease_gives_nothing_back() -> None:
    clock = ManualClock()
    backend = Line(clock)
    await backend.store.lease(NAME, "another", TTL)

    async with holding(backend, Job(clock), clock) as task:
        backend.silent = True
        task.cancel()
        await settle()

        assert task.cancelled()
        assert backend.asked == 1


async def test_the_next_agent_of_a_replica_goes_on_with_the_lease_of_one_that_was_killed() -> None:
    """D-20: and that of another replica waits for its end, as always (Z-29)."""
    clock = ManualClock()
    backend = MemoryBackend(clock)
    ours, theirs = Job(clock), Job(clock)
    assert await backend.lease(NAME, "replica-1", TTL)  # by an agent that gave nothing back

    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        waiting = group.create_task(hold_lease(backend, NAME, TTL, theirs, clock, Holder("replica-2")))
        holding = group.create_task(hold_lease(backend, NAME, TTL, ours, clock, Holder("replica-1")))
        await settle()
        assert ours.running()
        await clock.advance(100)
        assert not theirs.starts

        holding.cancel()
        await clock.advance(TTL.total_seconds())
        assert theirs.running()
        waiting.cancel()


async def test_a_name_is_not_used_again_while_its_release_may_be_on_its_way() -> None:
    """Or it would end a lease that was taken since, with the job still running (Z-29)."""
    clock = ManualClock()
    backend = Line(clock)
    holder = Holder("replica-1")

    async def job() -> None:
        assert backend.holder == "replica-1"

    await hold_lease(backend, NAME, TTL, job, clock, holder)
    assert holder.name == "replica-1"

    async def cut() -> None:
        backend.cut = True

    await hold_lease(backend, NAME, TTL, cut, clock, holder)
    assert holder.name != "replica-1"
