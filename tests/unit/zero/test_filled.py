"""Knowing that the databroker holds a configuration, without the lease: a replica that shares its store with others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pomerium_agent.databroker.bundle_entry import CacheEntry, entry_to_record
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.records import Record
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.zero.filled import OTHERS_WITHIN, watch_filled
from tests.fakes.clock import ManualClock
from tests.fakes.control_plane import FakeControlPlane, html, say, serve_control_plane
from tests.unit.zero.wire import open_downloader


@dataclass(frozen=True, slots=True)
class House:
    plane: FakeControlPlane
    backend: MemoryBackend
    clock: ManualClock
    filled: Latest[bool]
    watching: "asyncio.Task[None]"

    async def done(self) -> None:
        async with asyncio.timeout(10):
            await asyncio.shield(self.watching)
        assert self.filled.value


@asynccontextmanager
async def house(*before: Record, bundles: tuple[str, ...] = ("config",), down: bool = False) -> AsyncIterator[House]:
    """A store with records from before, and a watcher that begins."""
    clock, filled = ManualClock(), Latest(False)
    backend = MemoryBackend(clock)
    if before:
        await backend.put(before)
    async with (
        serve_control_plane() as plane,
        open_downloader(plane, clock=clock) as (api, _),
        asyncio.TaskGroup() as group,
    ):
        for name in bundles:
            plane.publish(name, [], etag='"1"')
        if down:
            plane.always("bundles", html(503))
        watching = group.create_task(watch_filled(filled, api, backend, clock))
        yield House(plane, backend, clock, filled, watching)
        watching.cancel()


def bundle(name: str) -> Record:
    return entry_to_record(name, CacheEntry(etag='"1"', record_types=("t",)))


async def test_what_another_replica_brought_in_is_enough() -> None:
    """Z-30: only the holder of the lease syncs, and the others serve what it wrote."""
    async with house() as at:
        await at.clock.advance(3600)
        assert not at.filled.value
        assert at.plane.requests("bundles") == []  # nobody is asked while there is nothing

        await at.backend.put([bundle("config")])

        await at.done()


async def test_a_store_that_outlived_us_is_served_although_nobody_can_be_asked() -> None:
    async with house(bundle("config"), down=True) as at:
        await at.done()


async def test_of_several_bundles_all_are_waited_for() -> None:
    async with house(bundle("one"), bundles=("one", "two")) as at:
        await at.plane.until(lambda: at.plane.requests("bundles"))
        await at.clock.until_sleeping()
        assert not at.filled.value

        await at.backend.put([bundle("two")])

        await at.done()


async def test_a_bundle_that_leaves_no_entry_is_not_waited_for_for_ever() -> None:
    """W11: one without records has none."""
    async with house(bundle("one"), bundles=("one", "empty")) as at:
        await at.plane.until(lambda: at.plane.requests("bundles"))
        await at.clock.until_sleeping()
        await at.clock.advance(OTHERS_WITHIN)

        await at.done()


async def test_a_replica_that_the_control_plane_refuses_serves_what_is_there() -> None:
    """Z-66."""
    async with house(bundle("config")) as at:
        at.plane.always("bundles", say({"code": 400, "message": "no"}, status=400))

        await at.done()
