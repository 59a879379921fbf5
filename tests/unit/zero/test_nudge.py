"""When a job is due, and what several nudges add up to."""

import asyncio

import pytest

from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.rerun import rerun_on_change
from pomerium_agent.runtime.waiting import first_of
from pomerium_agent.zero.nudge import MIN_GAP, ConnectionState, Flag, Schedule
from tests.fakes.clock import ManualClock, settle


class Job:
    """Counts how often its schedule said it was due."""

    def __init__(self, *, on_disconnect: bool = False, gap: float = 0.0) -> None:
        self.clock = ManualClock()
        self.connection = Latest(ConnectionState())
        self.flag = Flag()
        self.schedule = Schedule(self.connection, self.flag, clock=self.clock, on_disconnect=on_disconnect, gap=gap)
        self.runs = 0

    async def run(self) -> None:
        while True:
            await self.schedule.due()
            self.schedule.begin()
            self.runs += 1

    def connect(self, connected: bool) -> None:
        self.connection.set(ConnectionState(connected, self.connection.value.turn + 1))


async def test_a_job_runs_every_five_minutes_without_and_every_hour_with_a_connection() -> None:
    """Z-17."""
    job = Job()
    task = asyncio.create_task(job.run())

    await job.clock.advance(299)
    assert job.runs == 0
    await job.clock.advance(1)
    assert job.runs == 1
    job.connect(True)
    await settle()
    assert job.runs == 2
    await job.clock.advance(3599)
    assert job.runs == 2
    await job.clock.advance(1)
    assert job.runs == 3

    task.cancel()


async def test_a_nudge_after_a_quiet_time_counts_at_once_and_a_flood_of_them_few_times() -> None:
    """Z-20, zero link 6.3: and the last one is never lost."""
    job = Job(gap=MIN_GAP)
    task = asyncio.create_task(job.run())
    await settle()

    job.flag.put_up()
    await settle()
    assert job.runs == 1
    for _ in range(1000):
        job.flag.put_up()
        await settle()
    assert job.runs == 1
    await job.clock.advance(MIN_GAP)
    assert job.runs == 2
    assert not job.flag.raised
    await job.clock.advance(MIN_GAP)
    assert job.runs == 2
    job.flag.put_up()
    await settle()
    assert job.runs == 3

    task.cancel()


async def test_a_flood_of_nudges_does_not_hurry_somebody_who_fails() -> None:
    """Zero link 3: a nudge ends the wait between two tries, and not more often than it would begin a first one."""
    job, tries = Job(gap=MIN_GAP), 0

    async def fail() -> None:
        nonlocal tries
        while True:
            job.schedule.begin()
            tries += 1
            assert await job.schedule.due_within(60)

    task = asyncio.create_task(fail())
    for _ in range(1000):
        job.flag.put_up()
        await settle()
    assert tries == 1
    await job.clock.advance(MIN_GAP)
    assert tries == 2

    task.cancel()


async def test_losing_the_connection_shortens_a_wait_that_is_under_way() -> None:
    """W4."""
    job = Job()
    task = asyncio.create_task(job.run())
    await settle()
    job.connect(True)
    await job.clock.advance(200)
    job.connect(False)
    await job.clock.advance(99)
    assert job.runs == 1

    await job.clock.advance(1)

    assert job.runs == 2
    task.cancel()


@pytest.mark.parametrize(("on_disconnect", "runs"), [(True, 1), (False, 0)])
async def test_losing_the_connection_is_a_reason_to_run_for_those_who_say_so(on_disconnect: bool, runs: int) -> None:
    """Z-17: zero link 6.3, the bundles are synced, the bootstrap is not fetched."""
    job = Job(on_disconnect=on_disconnect)
    job.connect(True)
    job.schedule.begin()
    task = asyncio.create_task(job.run())
    await settle()

    job.connect(False)
    await settle()

    assert job.runs == runs
    task.cancel()


async def test_a_reconnect_too_quick_to_be_seen_still_counts() -> None:
    """Z-17."""
    job = Job()
    job.connect(True)
    job.schedule.begin()
    task = asyncio.create_task(job.run())
    await settle()

    job.connect(False)
    job.connect(True)
    await settle()

    assert job.runs == 1
    task.cancel()


async def test_many_nudges_while_busy_are_one() -> None:
    """Zero link 6.3."""
    job = Job()
    for _ in range(5):
        job.flag.put_up()
    task = asyncio.create_task(job.run())

    await settle()

    assert job.runs == 1
    task.cancel()


async def test_a_nudge_ends_the_wait_between_two_tries() -> None:
    """Zero link 3: a signal retries at once."""
    job = Job()
    waiting = asyncio.create_task(job.schedule.due_within(60))
    await settle()

    job.flag.put_up()

    assert await waiting is True
    job.schedule.begin()
    quiet = asyncio.create_task(job.schedule.due_within(60))
    await job.clock.advance(60)
    assert await quiet is False


async def test_waiting_for_the_first_ends_the_others() -> None:
    clock = ManualClock()

    task = asyncio.create_task(first_of(clock.sleep(5), clock.sleep(10)))
    await clock.advance(5)
    await task

    assert clock.sleeping == 0


async def test_a_new_value_ends_the_run_under_the_old_one_before_the_next_begins() -> None:
    """Z-25."""
    cell = Latest("a")
    seen: list[str] = []

    async def run(value: str) -> None:
        seen.append(f"begin {value}")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            seen.append(f"end {value}")

    task = asyncio.create_task(rerun_on_change(cell, run))
    await settle()
    cell.set("a")
    await settle()
    cell.set("b")
    await settle()
    task.cancel()
    await asyncio.wait([task])

    assert seen == ["begin a", "end a", "begin b", "end b"]


async def test_an_error_of_the_run_leaves() -> None:
    async def run(_value: str) -> None:
        raise KeyError("x")

    with pytest.raises(ExceptionGroup) as raised:
        await rerun_on_change(Latest("a"), run)

    assert isinstance(raised.value.exceptions[0], KeyError)
