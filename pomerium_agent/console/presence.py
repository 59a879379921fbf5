"""Who is connected, written behind the streams' backs, so that a stream's end never waits for the disk."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from pomerium_agent.console.sightings import Sighting
from pomerium_agent.console.store import Store
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.latest import Latest


class Presence:
    """Streams come and go; `write` puts that down, in order."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._moves: asyncio.Queue[tuple[Sighting, bool]] = asyncio.Queue()
        self.streams = Latest(0)  # open right now

    @contextmanager
    def here(self, replica: Sighting) -> Iterator[None]:
        """A replica is connected for as long as the block lasts."""
        self._moves.put_nowait((replica, True))
        self.streams.set(self.streams.value + 1)
        try:
            yield
        finally:
            self._moves.put_nowait((replica, False))
            self.streams.set(self.streams.value - 1)

    async def write(self) -> None:
        """Put down every move, until cancelled."""
        while True:
            replica, came = await self._moves.get()
            move = self._store.sightings.joined if came else self._store.sightings.left
            await asyncio.to_thread(move, replica, self._clock.now())
            self._moves.task_done()

    async def written(self) -> None:
        """Wait until every move so far is put down."""
        await self._moves.join()
