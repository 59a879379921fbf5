"""What makes the link look again: nudges from the stream, the state of the connection, and the passing of time."""

import asyncio
import math
from dataclasses import dataclass

from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.waiting import first_of

CONNECTED_INTERVAL = 3600.0  # the stream tells us of changes, so looking is only a precaution (Z-17)
DISCONNECTED_INTERVAL = 300.0
MIN_GAP = 0.5  # seconds between two beginnings of one job, however often it is nudged


@dataclass(frozen=True, slots=True)
class ConnectionState:
    """Whether the stream is up. `turn` grows with every change, so that a quick reconnect does not go unseen."""

    connected: bool = False
    turn: int = 0

    @property
    def interval(self) -> float:
        """Seconds between two looks in this state."""
        return CONNECTED_INTERVAL if self.connected else DISCONNECTED_INTERVAL


class Flag:
    """One slot for a nudge: raising it never waits, and raising it twice before it is taken counts once."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def raised(self) -> bool:
        """Whether a nudge waits to be taken."""
        return self._event.is_set()

    def put_up(self) -> None:
        """Leave a nudge."""
        self._event.set()

    def take(self) -> bool:
        """Take the nudge, if there is one."""
        raised = self._event.is_set()
        self._event.clear()
        return raised

    async def wait(self) -> None:
        """Return once there is a nudge; it stays until it is taken."""
        await self._event.wait()


class Schedule:
    """When one job is due: at once when nudged or newly connected, else when the interval of the connection has passed.

    The wait is re-armed whenever the connection changes, so that losing the stream shortens a wait that is
    already under way (W4). With `on_disconnect`, losing the stream is itself a reason to look. A nudge after a quiet
    time counts at once; those that follow closely wait for a moment, and add up to one.
    """

    def __init__(
        self, connection: Latest[ConnectionState], flag: Flag, *, clock: Clock, on_disconnect: bool = False,
        gap: float = MIN_GAP,
    ) -> None:  # fmt: skip
        self._connection = connection
        self._flag = flag
        self._clock = clock
        self._on_disconnect = on_disconnect
        self._turn = connection.value.turn
        self._gap = gap
        self._began = -math.inf

    def begin(self) -> None:
        """The job starts now: all that was said until here is covered by it."""
        self._flag.take()
        self._turn = self._connection.value.turn
        self._began = self._clock.monotonic()

    async def due(self) -> None:
        """Return when the job should run again."""
        began = self._clock.monotonic()
        while not self._pending():
            left = began + self._connection.value.interval - self._clock.monotonic()
            if left <= 0:
                return
            await first_of(self._flag.wait(), self._another_turn(), self._clock.sleep(left))
        await self._keep_apart()

    async def due_within(self, seconds: float) -> bool:
        """Wait `seconds`, or less when the job becomes due for another reason; True then."""
        until = self._clock.monotonic() + seconds
        while not self._pending():
            left = until - self._clock.monotonic()
            if left <= 0:
                return False
            await first_of(self._flag.wait(), self._another_turn(), self._clock.sleep(left))
        await self._keep_apart()
        return True

    async def _keep_apart(self) -> None:
        left = self._began + self._gap - self._clock.monotonic()
        if left > 0:
            await self._clock.sleep(left)

    def _pending(self) -> bool:
        state = self._connection.value
        if state.turn != self._turn:
            self._turn = state.turn
            if state.connected or self._on_disconnect:
                return True
        return self._flag.raised

    async def _another_turn(self) -> None:
        async for state in self._connection.follow():
            if state.turn != self._turn:
                return
