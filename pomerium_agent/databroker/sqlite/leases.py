"""Leases in the file: who has them outlives the process, when they end is counted by a clock that nobody can set."""

import sqlite3
from datetime import timedelta

from pomerium_agent.runtime.clock import Clock


class Leases:
    """Used in the writing thread alone, inside its transactions.

    The hour of day may be set, and the monotonic clock begins anew with the machine. So the file holds no time: after
    a start each lease that was not given back counts as just renewed. It may last too long, and never ends too early.
    """

    def __init__(self, connection: sqlite3.Connection, clock: Clock) -> None:
        self._db = connection
        self._clock = clock
        now = clock.monotonic()
        self._ends = {name: now + ttl for name, ttl in connection.execute("SELECT name, ttl FROM lease")}

    def take(self, name: str, holder: str, ttl: timedelta) -> bool:
        """Take or renew; a renewal writes nothing. False while another holder's has not expired."""
        now, seconds = self._clock.monotonic(), ttl.total_seconds()
        row = self._db.execute("SELECT holder, ttl FROM lease WHERE name = ?", (name,)).fetchone()
        if row is not None and row[0] != holder and self._ends.get(name, now) >= now:
            return False
        if row != (holder, seconds):
            self._db.execute("INSERT OR REPLACE INTO lease VALUES (?, ?, ?)", (name, holder, seconds))
        self._ends[name] = now + seconds
        return True

    def release(self, name: str, holder: str) -> None:
        """Give it back, if it is the holder's."""
        self._db.execute("DELETE FROM lease WHERE name = ? AND holder = ?", (name, holder))

    def forget_expired(self) -> None:
        now = self._clock.monotonic()
        for name in [name for name, end in self._ends.items() if end < now]:
            self._db.execute("DELETE FROM lease WHERE name = ?", (name,))
            del self._ends[name]
