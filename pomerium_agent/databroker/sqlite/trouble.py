"""What the file's store says of its own health: when reading or writing fails, and when both are well again."""

from collections.abc import Iterator
from contextlib import contextmanager

from pomerium_agent.errors import DatabrokerUnavailable
from pomerium_agent.runtime.health import Check, Health


class Trouble:
    """Of two kinds, `read` and `write`: a full disk can still be read, which does not mean that all is well."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._kinds: set[str] = set()

    @contextmanager
    def reported(self, kind: str) -> Iterator[None]:
        """Tell of a DatabrokerUnavailable that leaves the block."""
        try:
            yield
        except DatabrokerUnavailable as error:
            self._kinds.add(kind)
            self._health.failed(Check.STORAGE, str(error), {"backend": "file"})
            raise

    def over(self, kind: str) -> None:
        """It worked."""
        if kind in self._kinds:
            self._kinds.remove(kind)
            if not self._kinds:
                self._health.running(Check.STORAGE, backend="file")
