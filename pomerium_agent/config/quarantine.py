"""What stands where a faulty route would: never nothing, since a laxer route below could catch its traffic.

First applicable (architecture 4.2, routes 13): its last accepted version; else a 503 on its own match, at its own
place; else, when the match cannot be expressed, a 503 on everything below that place on its host. Only a route
whose `from` cannot be read leaves no trace.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from pomerium_agent.config.action import Unavailable
from pomerium_agent.config.order import SortKey, sort_key_of
from pomerium_agent.config.routes import CheckedRoute
from pomerium_agent.config.snapshot import Access, Fault, Route
from pomerium_agent.config.source import EVERYTHING, Match, Source


def stand_in(checked: CheckedRoute, fault: Fault, accepted: Mapping[str, Route]) -> tuple[SortKey, Route] | None:
    """The route to serve instead, and its place. `accepted` are the routes of the snapshot before.

    An accepted version never stays more open than the faulty one was meant to be: whoever closed a route and
    made a mistake elsewhere in it must not find it open.
    """
    before = accepted.get(checked.id)
    if before is not None and not isinstance(before.action, Unavailable) and not _unknown_policy(checked):
        kept = no_more_open(before, checked.access, public=checked.public, version=checked.version)
        if kept is not None:
            return sort_key_of(kept), kept
    if checked.source is None or checked.place is None:
        return None
    return checked.place, unavailable(checked, checked.source, checked.match or EVERYTHING, fault, checked.id)


def no_more_open(before: Route, access: Access, *, public: bool, version: str) -> Route | None:
    """An accepted version that lets in whom it let in, if the one it stands in for would too.

    `access`, `public` and `version` (a hash of all of it) are those of the other one. None: the two do not even mean
    the same by a visitor's certificate or token, so that neither can answer for the other.
    """
    mine = before.access
    # An authority that cannot be read may be what is wrong; the one before is still asked for then.
    trusted = access.client_ca == mine.client_ca or (access.client_ca == "" and mine.client_ca)
    if not trusted or _evidence(access) != _evidence(mine):
        return None
    public = public and before.public
    same = public or mine.also_of == version or (mine.also == access.also and access.policy == mine.policy)
    if same and public == before.public:
        return before
    if not same:
        mine = replace(mine, also=access.policies, also_of=version)
    return replace(before, access=mine, public=public, key=_key("no-more-open", before.key, version))


def _evidence(access: Access) -> tuple[object, ...]:
    """How visitors show who they are, apart from certificates."""
    return access.bearer_format, access.identity_providers, access.idp_client_id, access.access_token_audiences


def _unknown_policy(checked: CheckedRoute) -> bool:
    """Whether a policy of it is missing, which may have been the one that says no."""
    return any(fault.field == "policy_ids" and not fault.warning for fault in checked.faults)


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
        access=Access(client_ca=checked.access.client_ca or None),  # what is asked for stays as meant, if known
    )


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
