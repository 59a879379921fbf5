"""What stands where a faulty route would: never nothing, since a laxer route below could catch its traffic.

First applicable (architecture 4.2, routes 13): its last accepted version; else a 503 on its own match, at its own
place; else, when the match cannot be expressed, a 503 on everything below that place on its host. Only a route
whose `from` cannot be read leaves no trace.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from pomerium_agent.config.order import SortKey, sort_key_of
from pomerium_agent.config.routes import CheckedRoute
from pomerium_agent.config.snapshot import Fault, Match, MatchKind, Route, Source, Unavailable

EVERYTHING = Match(MatchKind.PREFIX)


def stand_in(checked: CheckedRoute, fault: Fault, accepted: Mapping[str, Route]) -> tuple[SortKey, Route] | None:
    """The route to serve instead, and its place. `accepted` are the routes of the snapshot before.

    An accepted version never stays more open than the faulty one was meant to be: whoever closed a route and
    made a mistake elsewhere in it must not find it open.
    """
    before = accepted.get(checked.id)
    if before is not None and not isinstance(before.action, Unavailable):
        before = no_more_open(before, public=checked.public)
        return sort_key_of(before), before
    if checked.source is None or checked.place is None:
        return None
    return checked.place, unavailable(checked, checked.source, checked.match or EVERYTHING, fault, checked.id)


def no_more_open(before: Route, *, public: bool) -> Route:
    """An accepted version, closed when the version it stands in for is not `public`."""
    return before if public or not before.public else replace(before, public=False, key=_key("closed", before.key))


def duplicate(checked: CheckedRoute, fault: Fault) -> tuple[SortKey, Route] | None:
    """What stands where a route would whose id is taken by an earlier one; its accepted version is the other one's."""
    if checked.source is None or checked.place is None:
        return None
    identity = f"{checked.id}#duplicate-{checked.digest.hex()[:8]}"
    return checked.place, unavailable(checked, checked.source, checked.match or EVERYTHING, fault, identity)


def unavailable(checked: CheckedRoute, source: Source, match: Match, fault: Fault, identity: str) -> Route:
    """A 503 that names the fault, for everyone: who would be allowed in is beside the point."""
    parts = (identity, checked.record_id, source.url, match.kind.value, match.value, fault.id, checked.stat_name)
    return Route(
        id=identity,
        key=_key("unavailable", *parts),
        record_id=checked.record_id,
        name=checked.name,
        stat_name=checked.stat_name,
        source=source,
        match=match,
        action=Unavailable(fault_id=fault.id),
        public=True,
    )


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
