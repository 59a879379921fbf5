"""Following a type of records (databroker 10, D-37)."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from pomerium_agent.databroker import Change, MemoryBackend, Reset, Updated, follow
from pomerium_agent.errors import DatabrokerUnavailable
from pomerium_agent.records import Cursor, Record
from pomerium_agent.runtime.health import Check, Health
from tests.fakes.clock import ManualClock, settle


async def next_of(changes: AsyncGenerator[Change, None]) -> Change:
    async with asyncio.timeout(5):
        return await anext(changes)


def record(id: str, type: str = "a") -> Record:
    return Record(type=type, id=id)


async def test_first_comes_a_whole_copy_then_each_change() -> None:
    backend = MemoryBackend(ManualClock())
    await backend.put([record("2"), record("1"), record("x", "other")])

    async with aclosing(follow(backend, "a")) as changes:
        copy = await next_of(changes)
        assert isinstance(copy, Reset)
        assert [r.id for r in copy.records] == ["1", "2"]

        written = await backend.put([record("y", "other"), record("3")])
        change = await next_of(changes)
        assert change == Updated(written.records[1], Cursor(written.server_version, written.records[1].version))


async def test_a_reader_is_told_of_an_empty_store_too() -> None:
    backend = MemoryBackend(ManualClock())

    async with aclosing(follow(backend, "a")) as changes:
        copy = await next_of(changes)

    assert isinstance(copy, Reset)
    assert copy.records == ()


async def test_a_lost_place_means_a_new_copy_at_once() -> None:
    """D-37, D-40."""
    backend = MemoryBackend(ManualClock())
    await backend.put([record("1")])

    async with aclosing(follow(backend, "a")) as changes, asyncio.TaskGroup() as group:
        await next_of(changes)
        waiting = group.create_task(next_of(changes))
        await settle()
        await backend.clear()

        copy = await waiting
        assert isinstance(copy, Reset)
        assert copy.records == ()

        await backend.put([record("2")])
        change = await next_of(changes)
        assert isinstance(change, Updated)
        assert change.record.id == "2"


async def test_who_remembers_the_last_change_goes_on_from_there() -> None:
    """D-37: no second copy after an interruption."""
    backend = MemoryBackend(ManualClock())
    await backend.put([record("1")])
    async with aclosing(follow(backend, "a")) as changes:
        seen = (await next_of(changes)).cursor
    await backend.put([record("2")])

    async with aclosing(follow(backend, "a", after=seen)) as changes:
        change = await next_of(changes)

    assert isinstance(change, Updated)
    assert change.record.id == "2"


async def test_who_remembers_too_long_gets_a_new_copy() -> None:
    clock = ManualClock()
    backend = MemoryBackend(clock)
    await backend.put([record("1"), record("2")])
    info = await backend.server_info()
    clock.jump(7200)
    await backend.clean_up()

    async with aclosing(follow(backend, "a", after=Cursor(info.server_version, 0))) as changes:
        copy = await next_of(changes)

    assert isinstance(copy, Reset)
    assert [r.id for r in copy.records] == ["1", "2"]


async def test_the_first_copy_is_reported_to_health_and_a_store_out_of_reach_leaves_to_the_supervisor() -> None:
    health = Health()
    backend = MemoryBackend(ManualClock())
    async with aclosing(follow(backend, "a", health=health)) as changes:
        await next_of(changes)
        assert health.reports[Check.DATABROKER_SYNC].healthy

        await backend.close()
        with pytest.raises(DatabrokerUnavailable):
            await next_of(changes)
    assert health.reports[Check.DATABROKER_SYNC].healthy  # the initial copy was made; readers of old data serve on

    async with aclosing(follow(backend, "a", health=health)) as changes:
        with pytest.raises(DatabrokerUnavailable):
            await next_of(changes)
    assert "closed" in health.reports[Check.DATABROKER_SYNC].error
