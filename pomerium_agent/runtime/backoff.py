"""How long to wait before the next try: exponential, with jitter, capped (zero link, B1 and B2)."""

from dataclasses import dataclass, field
from random import Random


@dataclass(slots=True)
class Backoff:
    """Waits of `first`, then `factor` times as long, up to `cap` seconds; jitter of ±50 % comes on top of the cap."""

    first: float = 0.5
    factor: float = 1.5
    cap: float = 60.0
    jitter: float = 0.5
    random: Random = field(default_factory=Random)
    _interval: float = field(default=0.0, init=False)

    def next(self, at_least: float = 0.0) -> float:
        """Seconds to wait now; the one after will be longer.

        `at_least` is what the other side asked for. All replicas are asked for the same, so jitter comes on top of
        it, too: nobody comes sooner, and they do not come together.
        """
        self._interval = min(self._interval * self.factor if self._interval else self.first, self.cap)
        wait = self._interval * self.random.uniform(1 - self.jitter, 1 + self.jitter)
        if at_least <= 0:
            return wait
        return max(wait, at_least * self.random.uniform(1, 1 + self.jitter))

    def reset(self) -> None:
        """The next failure counts as a first one."""
        self._interval = 0.0


def patient() -> Backoff:
    """B1: 500 ms, ×1.5, cap 60 s."""
    return Backoff()


def loop() -> Backoff:
    """B2: 500 ms, ×2, cap 5 min."""
    return Backoff(factor=2.0, cap=300.0)
