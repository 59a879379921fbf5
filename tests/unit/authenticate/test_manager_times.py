"""When a session is looked at next, and the schedule that remembers it for very many."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.authenticate.manager.facts import (
    COOL_OFF,
    GRACE,
    SPREAD,
    Facts,
    next_look,
    read_facts,
    renewal_time,
    spread_of,
)
from pomerium_agent.authenticate.manager.schedule import SLACK, Due, Schedule
from tests.fakes import session_records as people
from tests.fakes.clock import ManualClock, settle
from tests.fakes.session_records import NOW

T = NOW.timestamp()
YEAR_1 = datetime(1, 1, 1, tzinfo=UTC)
HOUR = 3600.0


def facts(ends: float | None = None, token: float | None = None, id_token: float | None = None) -> Facts:
    return Facts(
        user_id="u",
        idp_id="idp",
        expires_at=ends,
        token_expires_at=token,
        id_token_expires_at=id_token,
        access_token=True,
        refresh_token=True,
    )


@pytest.mark.parametrize(
    ("known", "with_id_token", "due"),
    [
        (facts(T + 14 * HOUR, T + HOUR), True, T + HOUR - 60),  # a minute before the access token expires
        (facts(T + 14 * HOUR, T + HOUR, T + 600), True, T + 540),  # the ID token is first
        (facts(T + 14 * HOUR, T + HOUR, T + 600), False, T + HOUR - 60),  # flag off
        (facts(T + 14 * HOUR, None, T + 600), False, T + 14 * HOUR),
        (facts(T + 1800, T + HOUR), True, T + 1800),  # the session's own end, without grace
        (facts(T + HOUR, T + HOUR), True, T + HOUR - 60),
        (facts(T + HOUR), True, T + HOUR),
        (facts(None, T + HOUR), True, T + HOUR - 60),
        (facts(), True, None),
        (facts(T + HOUR, T + 65), True, T + 10),  # no earlier than the cool-off
        (facts(T + HOUR, T - HOUR), True, T + 10),
        (facts(T - HOUR), True, T + 10),
    ],
)
def test_the_next_look_is_at_the_earliest_end(known: Facts, with_id_token: bool, due: float | None) -> None:
    """N-35; authenticate 7.2."""
    assert next_look(known, last=T, refreshes=True, with_id_token=with_id_token) == due


@pytest.mark.parametrize("token", [None, YEAR_1, datetime(1970, 1, 1, tzinfo=UTC)])
def test_a_token_without_an_end_plans_nothing(token: datetime | None) -> None:
    """N-35: unset and year-1 times; authenticate 3.10."""
    read = read_facts(people.session("s", "u", expires=NOW + timedelta(hours=1), token="a", token_expires=token))

    assert read is not None
    assert read.token_expires_at is None
    assert next_look(read, last=T, refreshes=True) == T + HOUR


def test_tokens_that_nobody_renews_do_not_matter() -> None:
    """N-37."""
    assert next_look(facts(T + 14 * HOUR, T + 600, T + 600), last=T, refreshes=False) == T + 14 * HOUR
    assert next_look(facts(None, T + 600), last=T, refreshes=False) is None


def test_a_session_that_forbids_it_has_no_tokens_to_ask_with() -> None:
    """Authenticate 7.3."""
    read = read_facts(people.session("s", "u", token="a", refresh="r", refresh_disabled=True))

    assert read is not None
    assert (read.access_token, read.refresh_token) == (False, False)


def test_what_is_no_session_has_no_facts() -> None:
    assert read_facts(replace(people.session("s"), data=None)) is None


TIMES = st.none() | st.floats(T - HOUR, T + 24 * HOUR)


@given(
    ends=TIMES,
    token=TIMES,
    id_token=TIMES,
    last=st.floats(T - HOUR, T + HOUR),
    retry_at=st.just(0.0) | st.floats(T - HOUR, T + HOUR),
    spread=st.floats(0, 1),
    refreshes=st.booleans(),
    with_id_token=st.booleans(),
)
def test_a_look_is_never_before_the_cool_off_and_never_later_than_needed(
    ends: float | None,
    token: float | None,
    id_token: float | None,
    last: float,
    retry_at: float,
    spread: float,
    refreshes: bool,
    with_id_token: bool,
) -> None:
    """N-35, G-9."""
    known = facts(ends, token, id_token)
    look = next_look(
        known, last=last, refreshes=refreshes, with_id_token=with_id_token, retry_at=retry_at, spread=spread
    )
    exact = next_look(known, last=last, refreshes=refreshes, with_id_token=with_id_token)
    renew = renewal_time(known, with_id_token=with_id_token) if refreshes else None

    assert (look is None) == (exact is None) == (renew is None and ends is None)
    if look is None or exact is None:
        return
    assert look >= last + COOL_OFF
    assert look <= max(exact, retry_at)
    if ends is not None:  # no backoff outlives the session
        assert look <= max(ends, last + COOL_OFF)
    assert look >= exact - SPREAD


def test_sessions_of_one_moment_are_spread_and_each_keeps_its_time() -> None:
    known = facts(T + 14 * HOUR, T + HOUR)
    looks = [next_look(known, last=T, refreshes=True, spread=spread_of(f"s{n}")) for n in range(600)]
    again = [next_look(known, last=T, refreshes=True, spread=spread_of(f"s{n}")) for n in range(600)]
    of_each_second: dict[int, int] = {}
    for look in looks:
        assert look is not None
        assert T + HOUR - GRACE - SPREAD <= look <= T + HOUR - GRACE
        of_each_second[int(look)] = of_each_second.get(int(look), 0) + 1

    assert looks == again
    assert max(of_each_second.values()) < 40


THINGS = st.sampled_from([Due("session", str(number)) for number in range(6)])


@given(steps=st.lists(st.tuples(THINGS, st.none() | st.integers(0, 50)) | st.integers(0, 50), max_size=200))
def test_the_schedule_gives_everything_once_at_its_latest_time_and_in_order(
    steps: list[tuple[Due, int | None] | int],
) -> None:
    """Against a plain dictionary: nothing is lost, nothing comes twice, nothing comes early."""
    schedule = Schedule()
    model: dict[Due, int] = {}
    for step in steps:
        if isinstance(step, int):
            taken = list(schedule.take(step))
            expected = {thing for thing, time in model.items() if time <= step}
            assert set(taken) == expected
            assert len(taken) == len(expected)
            assert [model[thing] for thing in taken] == sorted(model[thing] for thing in taken)
            model = {thing: time for thing, time in model.items() if time > step}
        else:
            thing, time = step
            schedule.set(thing, time)
            if time is None:
                model.pop(thing, None)
            else:
                model[thing] = time
        assert len(schedule) == len(model)
        assert schedule.entries <= 2 * len(model) + SLACK + 1
    assert set(schedule.take(100)) == set(model)


def test_the_heap_stays_linear_however_often_things_move() -> None:
    """A record is written with every access; 100,000 sessions must cost no more than that."""
    schedule = Schedule()
    for time in range(100):
        for number in range(1000):
            schedule.set(Due("session", str(number)), 10_000.0 + time)

    assert len(schedule) == 1000
    assert schedule.entries <= 2 * 1000 + SLACK


async def test_waiting_ends_when_something_is_due_or_becomes_due_earlier() -> None:
    clock, schedule = ManualClock(), Schedule()
    now = clock.now().timestamp()
    schedule.set(Due("session", "late"), now + 50)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(schedule.wait(clock))
        await clock.advance(49)
        assert not task.done()
        await clock.advance(1)
        assert task.done()

        schedule.set(Due("session", "late"), now + 100)
        assert list(schedule.take(clock.now().timestamp())) == []
        task = group.create_task(schedule.wait(clock))
        await settle()
        assert not task.done()
        schedule.set(Due("session", "soon"), now + 51)
        await settle()
        assert task.done()
