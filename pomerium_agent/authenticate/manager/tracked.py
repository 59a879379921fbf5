"""What the identity manager remembers of each session while it has the lease, and whose sessions there are."""

from collections.abc import Collection
from dataclasses import dataclass
from random import Random

from pomerium_agent.authenticate.manager.facts import COOL_OFF, Facts, next_look, spread_of
from pomerium_agent.authenticate.manager.work import refreshes
from pomerium_agent.authenticate.site import Site
from pomerium_agent.runtime.backoff import Backoff


@dataclass(slots=True)
class Tracked:
    """One session. `version` is the newest of its record that was taken in."""

    id: str
    facts: Facts
    version: int
    last: float  # look, or first sight
    suspect: bool = False  # its access token is not taken any more, so it is refreshed early
    waits_for: str | None = None  # the provider that could not refresh it
    _retry_at: float = 0.0
    _backoff: Backoff | None = None

    def next_look(self, site: Site) -> float | None:
        """When it is to be looked at again; None: never."""
        if self.suspect:
            return max(self.last + COOL_OFF, self._retry_at)
        return next_look(
            self.facts,
            last=self.last,
            refreshes=refreshes(self.facts, site),
            with_id_token=site.login.ends_with_id_token,
            retry_at=self._retry_at,
            spread=spread_of(self.id),
        )

    def put_off(self, now: float, random: Random) -> float:
        """No refresh for 10 seconds, then longer, up to 5 minutes (G-9); returns the seconds."""
        self._backoff = self._backoff or Backoff(first=12.5, factor=2.0, cap=250.0, jitter=0.2, random=random)
        wait = self._backoff.next()
        self._retry_at = now + wait
        return wait

    def start_over(self) -> None:
        """What went wrong before is of no importance any more."""
        self._retry_at, self._backoff, self.suspect = 0.0, None, False


class ByUser:
    """The ids of the sessions of each user who has any."""

    def __init__(self) -> None:
        self._sessions: dict[str, set[str]] = {}

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._sessions

    def of(self, user_id: str) -> Collection[str]:
        return self._sessions.get(user_id, frozenset())

    def add(self, user_id: str, session_id: str) -> bool:
        """Whether it is the first one of that user."""
        first = user_id not in self._sessions
        self._sessions.setdefault(user_id, set()).add(session_id)
        return first

    def remove(self, user_id: str, session_id: str) -> bool:
        """Whether it was the last one of that user."""
        sessions = self._sessions.get(user_id)
        if sessions is None:
            return False
        sessions.discard(session_id)
        if not sessions:
            del self._sessions[user_id]
        return not sessions
