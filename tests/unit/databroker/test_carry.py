"""Copying from a store to the one that takes over, when the writers are fast (Z-25)."""

import asyncio
from collections.abc import Sequence

from pomerium_agent.databroker import MemoryBackend, Written
from pomerium_agent.databroker.carry import ENOUGH, Carrier
from pomerium_agent.records import Record
from tests.contract.stores import current_ids, session
from tests.fakes.clock import ManualClock


class Outpaced(MemoryBackend):
    """A store that writes so slowly that `old` has more to take along afterwards than before."""

    def __init__(self, clock: ManualClock, old: MemoryBackend, ids: int) -> None:
        super().__init__(clock)
        self._old = old
        self._ids = ids  # how many different ones are written in the old store
        self._number = 0

    async def put(self, records: Sequence[Record]) -> Written:
        written = await super().put(records)
        for _ in range(2 * ENOUGH):
            self._number += 1
            await self._old.put([session(str(self._number % self._ids), str(self._number))])
        return written


async def test_writers_that_are_faster_than_the_new_store_do_not_put_the_change_off_for_ever() -> None:
    """Copying comes to an end, and what is left is taken in the moment in which they wait."""
    clock = ManualClock()
    old = MemoryBackend(clock)
    await old.put([session("0")])
    carrier = Carrier(old, Outpaced(clock, old, 10**6), clock)

    async with asyncio.timeout(30):
        await carrier.copy()
    assert len(await current_ids(old)) > ENOUGH


async def test_a_few_records_that_are_written_again_and_again_are_few() -> None:
    """What counts is what has to be taken along, not how often it was written."""
    clock = ManualClock()
    old = MemoryBackend(clock)
    await old.put([session("0")])
    new = Outpaced(clock, old, 5)
    carrier = Carrier(old, new, clock)

    async with asyncio.timeout(30):
        await carrier.copy()

    assert await carrier.catch_up() == 5
    assert await current_ids(new) == await current_ids(old)
