"""A shared databroker that somebody else has filled (Z-40, Z-51)."""

import asyncio

from pomerium_agent.databroker import MemoryBackend
from pomerium_agent.records import Record
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.zero.bundles import CacheEntry
from pomerium_agent.zero.filled import notice_filled
from pomerium_agent.zero.reconcile import CACHE_ENTRY_TYPE, entry_to_record
from tests.fakes.clock import ManualClock, settle

ENTRY = entry_to_record("config", CacheEntry(etag="e", last_modified="m", record_types=("t",)))


async def test_what_is_there_already_is_enough() -> None:
    backend, filled = MemoryBackend(ManualClock()), Latest(False)
    await backend.put([ENTRY])

    await notice_filled(backend, filled)

    assert filled.value


async def test_it_waits_until_a_whole_bundle_is_there() -> None:
    """An entry that cannot be read counts for nothing, nor does one that is removed."""
    backend, filled = MemoryBackend(ManualClock()), Latest(False)
    async with asyncio.TaskGroup() as group:
        noticing = group.create_task(notice_filled(backend, filled))
        await settle()
        await backend.put([Record(type=CACHE_ENTRY_TYPE, id="config")])
        await backend.put([ENTRY.as_deleted(ManualClock().now())])
        await settle()
        assert not noticing.done()
        assert not filled.value

        await backend.put([ENTRY])

    assert filled.value
