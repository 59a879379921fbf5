"""Which store is opened, what keeps it clean, and what happens when it closes (Z-23, D-17)."""

import asyncio
from datetime import timedelta

import pytest

from pomerium_agent.databroker import Backend, MemoryBackend, Options, open_databroker, run_cleanup, storage_kind
from pomerium_agent.errors import CursorExpired, DatabrokerUnavailable, SettingsError
from pomerium_agent.records import Cursor, Record
from pomerium_agent.runtime.health import Check, Health, Status
from pomerium_agent.runtime.latest import Latest
from tests.fakes.clock import ManualClock, settle


@pytest.mark.parametrize(
    ("connection", "kind"),
    [
        (None, "memory"),
        ("file:///var/lib/pomerium", "file"),
        ("file://", "file"),
        ("postgres://user:password@db/pomerium", "postgres"),
        ("host=db user=pomerium", "postgres"),
        ("memory://", "postgres"),
        ("", "postgres"),
    ],
)
def test_the_connection_says_the_kind_of_storage(connection: str | None, kind: str) -> None:
    """Z-23."""
    assert storage_kind(connection) == kind


@pytest.mark.parametrize("connection", ["file://hunter2/var/lib", "postgres://user:hunter2@db:port/pomerium", ""])
async def test_a_store_that_cannot_be_opened_is_refused_without_showing_the_connection(connection: str) -> None:
    with pytest.raises(SettingsError, match="storage") as refusal:
        async with open_databroker(Latest(connection), ManualClock(), Health()):
            pytest.fail("it opened")

    assert "hunter2" not in str(refusal.value)


async def test_an_open_store_is_cleaned_every_minute() -> None:
    """D-17: records expire, the log is cut after an hour."""
    clock, health = ManualClock(), Health()
    async with open_databroker(Latest(None), clock, health) as backend:
        await backend.set_options("a", Options(ttl=timedelta(seconds=30)))
        await backend.put([Record(type="a", id="1")])
        start = Cursor((await backend.server_info()).server_version, 0)

        await clock.advance(59)
        assert await backend.list_types() == ("a",)
        await clock.advance(1)
        assert await backend.list_types() == ()

        await backend.put([Record(type="b", id="1")])
        await clock.advance(3700)
        with pytest.raises(CursorExpired):
            await anext(backend.changes(start))
        assert health.reports[Check.STORAGE].healthy
        assert health.reports[Check.STORAGE_CLEANUP].healthy


async def test_closing_the_store_ends_who_still_reads_it() -> None:
    clock, health = ManualClock(), Health()
    async with asyncio.TaskGroup() as group:

        async def read(backend: Backend) -> None:
            cursor = (await backend.server_info()).cursor
            with pytest.raises(DatabrokerUnavailable):
                await anext(backend.changes(cursor))

        async with open_databroker(Latest(None), clock, health) as backend:
            group.create_task(read(backend))
            await settle()

    assert clock.sleeping == 0
    assert health.reports[Check.STORAGE].status is Status.TERMINATING


async def test_a_clean_up_that_fails_is_reported_and_tried_again() -> None:
    clock, health = ManualClock(), Health()
    backend = MemoryBackend(clock)
    async with asyncio.TaskGroup() as group:
        cleaning = group.create_task(run_cleanup(backend, clock, health))
        await backend.close()

        await clock.advance(60)
        assert "closed" in health.reports[Check.STORAGE_CLEANUP].error
        await clock.advance(60)
        assert not cleaning.done()
        cleaning.cancel()
