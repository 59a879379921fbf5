"""Who asks: the session that a request carries, found without waiting whenever the records are here already."""

from typing import NamedTuple

from pomerium_agent.authorize.gather import Question
from pomerium_agent.authorize.rules import RouteRules, Rules
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.sessions.handle import Handle, HandleReader
from pomerium_agent.sessions.identity import Resolved, resolve
from pomerium_agent.sessions.live import Sessions
from pomerium_agent.sessions.sources import HANDLE_HEADER, NOTHING, Presented, find_handles

CARRIERS = ("cookie", "authorization", HANDLE_HEADER)


class Who(NamedTuple):
    """What a request says of who makes it, and what became of that."""

    presented: Presented = NOTHING
    resolved: Resolved | None = None
    handle: Handle | None = None
    refused: int = 0  # 400 or 403: the request is turned away for its credentials, whatever the policy says
    tracked: bool = False  # the use of this session is worth noting (authorize 21)


STRANGER = Who()


class Finder:
    """Looks sessions up for one generation of the rules, and remembers handles that it has read."""

    def __init__(self, rules: Rules, sessions: Sessions, clock: Clock) -> None:
        self._rules = rules
        self._sessions = sessions
        self._clock = clock
        self._reader = HandleReader((rules.shared_key,) if rules.shared_key else ())

    def presented(self, question: Question) -> Presented:
        """What the request carries."""
        headers = question.headers
        lines = question.lines or [(name, headers[name]) for name in CARRIERS if name in headers]
        return find_handles(lines, question.query, cookie_name=self._rules.cookie_name)

    def idp_id(self, question: Question, route: RouteRules | None) -> str:
        """The identity provider whose sessions count here (A-6)."""
        if route is not None:
            return self.idp_of(route)
        return self._rules.idp_of_host.get(question.hostname, self._rules.default_idp_id)

    def idp_of(self, route: RouteRules) -> str:
        return route.idp_id or self._rules.default_idp_id

    def first(self, presented: Presented, idp_id: str) -> Handle | None:
        """The handle that is tried first, if it is one and nothing need be waited for."""
        if not presented.candidates:
            return None
        handle = self._reader.read(presented.candidates[0].token)
        return handle if handle is not None and self.counts(handle, idp_id) else None

    def counts(self, handle: Handle, idp_id: str) -> bool:
        """Whether a handle is for sessions of that provider, and nothing need be waited for."""
        return (not handle.idp_id or handle.idp_id == idp_id) and self._sessions.is_ready_for(handle)

    def find(self, presented: Presented, idp_id: str, waited: frozenset[str] = frozenset()) -> Who | Handle:
        """Who is signed in; or a handle whose records have to be waited for first (A-5 to A-8, W3).

        `waited` names the sessions that were waited for already.
        """
        rules = self._rules
        for candidate in presented.candidates:
            handle = self._reader.read(candidate.token)
            if handle is None or (handle.idp_id and handle.idp_id != idp_id):
                continue
            if handle.id not in waited and not self._sessions.is_ready_for(handle):
                return handle
            resolved = resolve(self._sessions, handle, self._clock.now(), handle_lifetime=rules.handle_lifetime)
            if resolved is not None:
                return Who(presented, resolved, handle, tracked=True)
        return Who(presented)

    async def wait(self, presented: Presented, idp_id: str) -> Who:
        """The same, waiting for what a login just wrote. Raises DatabrokerUnavailable (A-8)."""
        waited: frozenset[str] = frozenset()
        found = self.find(presented, idp_id)
        while isinstance(found, Handle):
            await self._sessions.ready_for(found)
            waited |= {found.id}
            found = self.find(presented, idp_id, waited)
        return found
