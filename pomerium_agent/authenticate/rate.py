"""How often something may happen: so many at once, and so many a second after that."""

from dataclasses import dataclass


@dataclass(slots=True)
class Rate:
    """A bucket that fills by itself. `now` is monotonic, in seconds."""

    per_second: float
    at_once: float
    _left: float = -1.0
    _at: float = 0.0

    def allow(self, now: float) -> bool:
        """Whether one more may happen now; if so, it counts."""
        if self._left < 0:
            self._left, self._at = self.at_once, now
        self._left = min(self.at_once, self._left + (now - self._at) * self.per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
