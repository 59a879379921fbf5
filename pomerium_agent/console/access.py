"""Who gains access and who loses it between two configurations, route by route, in words. Pure.

Not by comparing texts: everybody that the policies before or after speak of is put before both of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from pomerium_agent.config.action import Unavailable
from pomerium_agent.config.compile import CompileCache, compile_snapshot
from pomerium_agent.config.snapshot import Route
from pomerium_agent.console.bundle import build_records
from pomerium_agent.errors import ConfigRejected
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.policy.admission import ANYBODY, EVERYBODY, Admission, Person, admission, people_of
from pomerium_agent.policy.route import RoutePolicy

NOBODY = RoutePolicy(closed="there is no such route")
IN_REGO = "a policy is written in Rego: who gains or loses cannot be told"
SHOWN = 20  # people named of each route; the rest is counted


@dataclass(frozen=True, slots=True)
class AccessChange:
    """What becomes of the access to one route."""

    id: str
    label: str
    gains: tuple[str, ...] = ()
    loses: tuple[str, ...] = ()
    note: str = ""  # what could not be told

    def __bool__(self) -> bool:
        return bool(self.gains or self.loses or self.note)

    def to_json(self) -> dict[str, object]:
        return {
            "id": self.id,
            "route": self.label,
            "gains": list(self.gains),
            "loses": list(self.loses),
            "note": self.note,
        }

    def lines(self) -> Iterator[str]:
        yield f"access to {self.label}"
        for sign, word, people in (("+", "gains", self.gains), ("-", "loses", self.loses)):
            for person in people[:SHOWN]:
                yield f"  {sign} {word} access: {person}"
            if len(people) > SHOWN:
                yield f"  {sign} and {len(people) - SHOWN} more"
        if self.note:
            yield f"  ? {self.note}"


def compare_access(
    old: config_pb2.Config, new: config_pb2.Config, labels: dict[str, str], now: datetime
) -> tuple[AccessChange, ...]:
    """The routes where somebody gains or loses. `labels` names those to look at, by id."""
    cache = CompileCache()  # shared, so that policies that are equal are one
    before, after = _policies(old, now, cache), _policies(new, now, cache)
    scripts = _scripts(old), _scripts(new)
    changes = []
    for route_id, label in labels.items():
        change = compare_policies(route_id, label, before.get(route_id, NOBODY), after.get(route_id, NOBODY))
        if change is None and scripts[0].get(route_id) != scripts[1].get(route_id):
            changes.append(AccessChange(route_id, label, note=IN_REGO))
        elif change:
            changes.append(change)
    return tuple(changes)


def compare_policies(route_id: str, label: str, old: RoutePolicy, new: RoutePolicy) -> AccessChange | None:
    """Put everybody they speak of before both. None when one of them is written in Rego."""
    if old == new:
        return AccessChange(route_id, label)
    people, more = people_of(old, new)
    gains: list[tuple[Person, Admission]] = []
    loses: list[tuple[Person, Admission]] = []
    for person in people:
        was, becomes = admission(old, person.identity), admission(new, person.identity)
        if was is None or becomes is None:
            return None
        if becomes > was:
            gains.append((person, becomes))
        elif becomes < was:
            loses.append((person, becomes))
    note = "its policies speak of more people than were looked at" if more else ""
    return AccessChange(
        route_id,
        label,
        tuple(f"{person}{_how(to)}" for person, to in _telling(gains, gained=True)),
        tuple(f"{person}{_how(to)}" for person, to in _telling(loses, gained=False)),
        note,
    )


def _how(becomes: Admission) -> str:
    return " (for some requests)" if becomes is Admission.SOMETIMES else ""


def _telling(found: list[tuple[Person, Admission]], *, gained: bool) -> Iterator[tuple[Person, Admission]]:
    """Without those who are among wider others of the same lot: anybody, all who sign in, a domain."""
    lot = set(found)
    for person, to in found:
        if not any((other, to) in lot for other in _wider(person, gained=gained)):
            yield person, to


def _wider(person: Person, *, gained: bool) -> Iterable[Person]:
    """Lots that this person is in. Who no longer gets in without signing in may still do so by signing in."""
    if person.stranger:
        return
    if gained:
        yield ANYBODY
    if not person.traits:
        return
    yield EVERYBODY
    for trait in person.traits:
        if len(person.traits) > 1:
            yield Person(traits=(trait,))
        if trait.kind == "email":
            domain = str(trait.value).rpartition("@")[2]
            yield Person(traits=(type(trait)("domain", value=domain),))


def _policies(config: config_pb2.Config, now: datetime, cache: CompileCache) -> dict[str, RoutePolicy]:
    """The policies of every route, as a replica reads them; one that serves nothing lets nobody in."""
    try:
        snapshot, _ = compile_snapshot(build_records(config, None), now=now, cache=cache, read_file=None)
    except ConfigRejected:
        return {}
    return {route.id: _policy(route) for route in snapshot.routes}


def _scripts(config: config_pb2.Config) -> dict[str, list[tuple[str, ...]]]:
    return {route.id: [tuple(policy.rego) for policy in route.policies] for route in config.routes}


def _policy(route: Route) -> RoutePolicy:
    return NOBODY if isinstance(route.action, Unavailable) else route.access.policy
