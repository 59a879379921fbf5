"""The newest changes in memory, so that whoever follows them closely never has to ask the disk."""

from bisect import bisect_right
from collections.abc import Iterable
from operator import attrgetter

from pomerium_agent.records import Record

_version = attrgetter("version")


class Tail:
    """The end of the log, at least `keep` changes of it once there were so many since `begin`."""

    def __init__(self, keep: int = 1024) -> None:
        self._keep = keep
        self._changes: list[Record] = []
        self._all_after = 0  # it has every change later than this version

    def begin(self, version: int) -> None:
        """Forget everything; what comes next follows `version`."""
        self._changes = []
        self._all_after = version

    def extend(self, changes: Iterable[Record]) -> None:
        """Add the changes of a commit, and forget old ones from time to time."""
        self._changes += changes
        if len(self._changes) > 2 * self._keep:
            self._all_after = self._changes[-self._keep - 1].version
            del self._changes[: -self._keep]

    def next_after(self, version: int, type: str) -> Record | None:
        """The first change later than `version`, of `type` unless that is empty; only for what `reaches`."""
        place = bisect_right(self._changes, version, key=_version)
        while place < len(self._changes) and type not in ("", self._changes[place].type):
            place += 1
        return self._changes[place] if place < len(self._changes) else None

    def reaches(self, version: int) -> bool:
        """Whether it has everything later than `version`."""
        return version >= self._all_after
