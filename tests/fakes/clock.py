"""A clock that tests move by hand: nobody waits, and what is due happens in order."""

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

SETTLE_TURNS = 20  # turns of the event loop that let what was woken run until it waits again


class ManualClock:
    """Implements runtime.clock.Clock. Time stands still until `advance`; sleepers wake in the order of their hour."""

    def __init__(self, now: datetime = datetime(2030, 1, 1, tzinfo=UTC)) -> None:
        self._now = now
        self._monotonic = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._slept = asyncio.Event()

    def monotonic(self) -> float:
        return self._monotonic

    def now(self) -> datetime:
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was moved that far; cancelling it forgets the sleeper."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._numbers), woken))
        waiting, self._slept = self._slept, asyncio.Event()
        waiting.set()
        await woken

    @property
    def sleeping(self) -> int:
        """How many wait for the clock now."""
        return sum(not woken.done() for _, _, woken in self._sleepers)

    async def until_sleeping(self, sleepers: int = 1) -> None:
        """Return once that many wait for the clock."""
        while self.sleeping < sleepers:
            await self._slept.wait()

    def jump(self, seconds: float) -> None:
        """Move time without waking anybody: for code that only asks what time it is."""
        self._monotonic += seconds
        self._now += timedelta(seconds=seconds)

    async def advance(self, seconds: float) -> None:
        """Move time forward; everyone due by then wakes at its own hour, also those who sleep again on the way."""
        await settle()
        end = self._monotonic + seconds
        while self._sleepers and self._sleepers[0][0] <= end:
            hour, _, woken = heapq.heappop(self._sleepers)
            if not woken.done():
                self.jump(max(0.0, hour - self._monotonic))
                woken.set_result(None)
                await settle()
        self.jump(end - self._monotonic)
        await settle()


async def settle(turns: int = SETTLE_TURNS) -> None:
    """Let every task that can run do so until it waits for something."""
    for _ in range(turns):
        await asyncio.sleep(0)
