"""What is due when, for very many things: one heap, in which moving a thing costs little and nothing is scanned."""

import asyncio
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.waiting import first_of

SHORTEST_SLEEP = 0.01  # seconds; clocks are less exact than numbers
LONGEST_SLEEP = 60.0  # seconds; the time of day may be set meanwhile
SLACK = 64  # stale entries that are always tolerated


class Due(NamedTuple):
    """A thing to look at: what kind it is, and its id."""

    kind: str
    id: str


class Schedule:
    """The time of each thing, in seconds since the epoch.

    A moved thing leaves its former entry in the heap; what comes out of the heap counts only if it is still the time of
    that thing. When more than half of the entries are stale, the heap is made anew, so it stays linear in the things.
    """

    def __init__(self) -> None:
        self._times: dict[Due, float] = {}
        self._heap: list[tuple[float, Due]] = []
        self._earlier = asyncio.Event()

    def __len__(self) -> int:
        return len(self._times)

    @property
    def entries(self) -> int:
        """How many entries the heap has, stale ones included."""
        return len(self._heap)

    def time_of(self, thing: Due) -> float | None:
        return self._times.get(thing)

    def set(self, thing: Due, time: float | None) -> None:
        """Look at it then, and not when it was planned before; None: not at all."""
        if time is None:
            self._times.pop(thing, None)
            return
        if self._times.get(thing) == time:
            return
        if not self._heap or time < self._heap[0][0]:
            self._earlier.set()
        self._times[thing] = time
        heappush(self._heap, (time, thing))
        if len(self._heap) > 2 * len(self._times) + SLACK:
            self._heap = [(time, thing) for thing, time in self._times.items()]
            heapify(self._heap)

    def take(self, now: float) -> Iterator[Due]:
        """Everything that is due by now, the longest overdue first; it is not planned any more."""
        while self._heap and self._heap[0][0] <= now:
            time, thing = heappop(self._heap)
            if self._times.get(thing) == time:
                del self._times[thing]
                yield thing

    async def wait(self, clock: Clock) -> None:
        """Return when something may be due."""
        self._earlier.clear()
        left = LONGEST_SLEEP
        if self._heap:
            left = min(left, self._heap[0][0] - clock.now().timestamp())
        if left > 0:
            await first_of(self._earlier.wait(), clock.sleep(max(left, SHORTEST_SLEEP)))
