"""The change log of one data set, in memory: what happened after a version, of all types or of one."""

from bisect import bisect_left, bisect_right
from datetime import datetime
from operator import attrgetter

from pomerium_agent.records import Record

_version = attrgetter("version")


class ChangeLog:
    """Changes in version order, numbered from 1 without gaps (databroker 4).

    Finding the next change costs the logarithm of the log, whatever the type that is asked for.
    """

    def __init__(self) -> None:
        self.latest = 0
        self.earliest = 0  # 0 until something was removed (C24), then one more than the last that was
        self._all: list[Record] = []
        self._by_type: dict[str, list[Record]] = {}

    def append(self, change: Record) -> None:
        """Add the change with the version after `latest`."""
        if change.version != self.latest + 1:
            raise ValueError(f"change {change.version} cannot follow {self.latest}")
        self.latest = change.version
        self._all.append(change)
        self._by_type.setdefault(change.type, []).append(change)

    def has_all_after(self, version: int) -> bool:
        """Whether nothing later than `version` was removed."""
        return not self.earliest or version >= self.earliest - 1

    def next_after(self, version: int, type: str = "") -> Record | None:
        """The first change later than `version` (of `type`, unless that is empty)."""
        changes = self._by_type.get(type, []) if type else self._all
        place = bisect_right(changes, version, key=_version)
        return changes[place] if place < len(changes) else None

    def remove_before(self, time: datetime) -> None:
        """Remove the changes made before `time`, except the newest change of all (databroker 4: retention)."""
        stale = 0
        while stale < len(self._all) - 1 and _modified(self._all[stale]) < time:
            stale += 1
        if not stale:
            return
        self.earliest = self._all[stale].version
        for type in {change.type for change in self._all[:stale]}:
            changes = self._by_type[type]
            del changes[: bisect_left(changes, self.earliest, key=_version)]
            if not changes:
                del self._by_type[type]
        del self._all[:stale]


def _modified(change: Record) -> datetime:
    if change.modified_at is None:
        raise ValueError(f"change {change.version} has no time")
    return change.modified_at
