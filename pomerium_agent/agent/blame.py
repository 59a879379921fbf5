"""Which route was it? Finds what makes Envoy refuse the route table, so that it alone stands aside.

Envoy takes a route table whole or not at all, and its reason rarely says which route it means. `config` refuses
everything that Envoy is known to refuse; this is for what nobody knew. Routes that the table in force does not
hold are suspects. They are offered in groups: an accepted group is cleared, a refused one is halved, and a
single refused route is held back until it changes. One bad route among n costs about 2·log2(n) offers; all
the while the accepted table serves.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pomerium_agent.config.action import Unavailable
from pomerium_agent.config.order import sort_key_of
from pomerium_agent.config.quarantine import no_more_open
from pomerium_agent.config.snapshot import Access, ConfigSnapshot, Fault, Route
from pomerium_agent.config.source import Match, MatchKind

REASON_LIMIT = 300


@dataclass(slots=True)
class Blame:
    """The search, and what it found. One owner, who tells it what Envoy said of each offer.

    Routes are named by their keys, so what was found stays true until the route itself changes.
    """

    refused: dict[str, str] = field(default_factory=dict)  # key → Envoy's reason
    _accepted: ConfigSnapshot | None = None
    _groups: list[tuple[str, ...]] = field(default_factory=list)  # keys still to be tried; the first is under trial

    @property
    def searching(self) -> bool:
        """Whether the last offer was a trial, and more must follow."""
        return bool(self._groups)

    def arrange(self, snapshot: ConfigSnapshot) -> tuple[ConfigSnapshot, tuple[Fault, ...]]:
        """What to offer now instead of `snapshot`, and a fault for each route that was refused."""
        present = {route.key for route in snapshot.routes}
        self.refused = {key: reason for key, reason in self.refused.items() if key in present}
        untried = {key for group in self._groups[1:] for key in group}
        if not self.refused and not untried:
            return snapshot, ()
        before = {route.id: route for route in self._accepted.routes} if self._accepted else {}
        routes: list[Route] = []
        moved: list[Route] = []
        faults: list[Fault] = []
        for route in snapshot.routes:
            if route.key in self.refused:
                fault = _fault(route, self.refused[route.key])
                faults.append(fault)
                instead = _stand_in(route, before, fault.id)
            elif route.key in untried:
                instead = _stand_in(route, before, "searching")
            else:
                instead = route
            here = isinstance(instead.action, Unavailable) or (instead.source, instead.match) == (
                route.source,
                route.match,
            )
            (routes if here else moved).append(instead)
        return replace(snapshot, routes=_with(routes, moved)), tuple(faults)

    def accepted(self, offered: ConfigSnapshot) -> bool:
        """Envoy took the table of `offered`. True when there is more to offer."""
        self._accepted = offered
        if not self._groups:
            return False
        self._groups.pop(0)
        return bool(self._groups)

    def rejected(self, offered: ConfigSnapshot, reason: str) -> bool:
        """Envoy refused the table of `offered`. True when there is something else to offer."""
        if not self._groups:
            known = {route.key for route in self._accepted.routes} if self._accepted else set()
            suspects = tuple(
                route.key
                for route in offered.routes
                if route.key not in known and not isinstance(route.action, Unavailable)
            )
            if not suspects:
                return False  # it was not a route
            self._groups = [suspects]
        group = self._groups.pop(0)
        if not group:
            self._groups = []
            return False  # even without them: it was not these routes, or not their matches alone
        if len(group) == 1:
            self.refused[group[0]] = reason[:REASON_LIMIT]
        else:
            middle = len(group) // 2
            self._groups[:0] = [group[:middle], group[middle:]]
        if not self._groups:
            self._groups = [()]  # one more offer, of everything but what was refused
        return True

    def forget_search(self) -> None:
        """The configuration changed: whatever was under trial is moot."""
        self._groups = []


def _with(routes: list[Route], moved: Iterable[Route]) -> tuple[Route, ...]:
    """The routes, and among them at their own places accepted versions that match something else than the new ones.

    At the places of the new ones they would catch what stricter routes below are for.
    """
    for route in moved:
        place = sort_key_of(route)
        at = next((at for at, other in enumerate(routes) if sort_key_of(other) > place), len(routes))
        routes.insert(at, route)
    return tuple(routes)


def _stand_in(route: Route, before: Mapping[str, Route], fault_id: str) -> Route:
    """The accepted version of the route, never more open than the refused one, or a 503 at its place."""
    kept = before.get(route.id)
    if kept is not None and not isinstance(kept.action, Unavailable):
        kept = no_more_open(kept, route.access, public=route.public, version=route.key)
        if kept is not None:
            return kept
    key = hashlib.sha256(f"blamed\0{route.key}\0{fault_id}".encode()).hexdigest()[:32]
    return Route(
        id=route.id,
        key=key,
        record_id=route.record_id,
        source=route.source,
        match=route.match if route.match.kind in (MatchKind.PREFIX, MatchKind.PATH) else Match(MatchKind.PREFIX),
        action=Unavailable(fault_id=fault_id),
        public=True,
        access=Access(client_ca=route.access.client_ca),
    )


def _fault(route: Route, reason: str) -> Fault:
    return Fault(
        subject=f'route "{route.name or route.id}" ({route.source.url})',
        field="",
        reason=f"envoy refuses it: {reason}",
        remedy="change the route; until then its last accepted version or a 503 stands in its place",
        record_id=route.record_id,
        route_id=route.id,
    )
