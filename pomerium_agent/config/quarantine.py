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
from pomerium_agent.config.snapshot import Access, Fault, Match, MatchKind, Route, Source, Unavailable

EVERYTHING = Match(MatchKind.PREFIX)


def stand_in(checked: CheckedRoute, fault: Fault, accepted: Mapping[str, Route]) -> tuple[SortKey, Route] | None:
    """The route to serve instead, and its place. `accepted` are the routes of the snapshot before.

    An accepted version never stays more open than the faulty one was meant to be: whoever closed a route and
    made a mistake elsewhere in it must not find it open.
    """
    before = accepted.get(checked.id)
    if before is not None and not isinstance(before.action, Unavailable):
        before = no_more_open(before, checked.access, public=checked.public, version=checked.version)
        return sort_key_of(before), before
    if checked.source is None or checked.place is None:
        return None
    return checked.place, unavailable(checked, checked.source, checked.match or EVERYTHING, fault, checked.id)


def no_more_open(before: Route, access: Access, *, public: bool, version: str) -> Route:
    """An accepted version that lets in whom it let in, if the one it stands in for would too.

    `access`, `public` and `version` (a hash of all of it) are those of the other one.
    """
    mine = before.access
    client_ca = access.client_ca or mine.client_ca  # with one that cannot be read nothing could be judged
    public = public and before.public
    same = public or mine.also_of == version or (mine.also is None and access.policy == mine.policy)
    if same and client_ca == mine.client_ca and public == before.public:
        return before
    stricter = replace(mine, client_ca=client_ca)
    if not same:
        stricter = replace(stricter, also=access.policy, also_of=version)
    return replace(before, access=stricter, public=public, key=_key("no-more-open", before.key, version))


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
        access=Access(client_ca=checked.access.client_ca),  # whom the listener asks for certificates stays as meant
    )


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
