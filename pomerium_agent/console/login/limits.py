"""What keeps strangers from costing us much: budgets by caller, and small memories that forget by themselves."""

from collections import OrderedDict
from typing import Generic, TypeVar

from pomerium_agent.runtime.clock import Clock

T = TypeVar("T")


class Budget:
    """So many questions a minute for each caller, and as many at once. The callers longest unheard of are forgotten."""

    def __init__(self, clock: Clock, *, per_minute: int, callers: int = 10_000) -> None:
        self._clock = clock
        self._size = float(per_minute)
        self._callers = callers
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and as of when

    def take(self, caller: str) -> bool:
        """Whether this question is within the budget."""
        now = self._clock.monotonic()
        left, since = self._left.pop(caller, (self._size, now))
        left = min(self._size, left + (now - since) * self._size / 60)
        granted = left >= 1
        self._left[caller] = (left - 1 if granted else left, now)
        if len(self._left) > self._callers:
            self._left.popitem(last=False)
        return granted


class ShortMemory(Generic[T]):
    """Values by key, each for the same while. When there are too many, the oldest is forgotten."""

    def __init__(self, clock: Clock, *, seconds: float, size: int = 10_000) -> None:
        self._clock = clock
        self._seconds = seconds
        self._size = size
        self._values: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def put(self, key: str, value: T) -> None:
        """Remember it, from now on."""
        self._values.pop(key, None)
        self._values[key] = (self._clock.monotonic() + self._seconds, value)
        self._forget()
        if len(self._values) > self._size:
            self._values.popitem(last=False)

    def get(self, key: str) -> T | None:
        """None when it is not known, or no longer."""
        self._forget()
        found = self._values.get(key)
        return found[1] if found else None

    def pop(self, key: str) -> T | None:
        """The same, once."""
        self._forget()
        found = self._values.pop(key, None)
        return found[1] if found else None

    def _forget(self) -> None:
        now = self._clock.monotonic()
        while self._values and next(iter(self._values.values()))[0] <= now:
            self._values.popitem(last=False)
