"""What a route is known by, before anything about it is checked: its id, its `from`, its place, its name in faults."""

import hashlib

from pomerium_agent.config.complaints import shown
from pomerium_agent.config.order import SortKey, sort_key
from pomerium_agent.config.source import Source
from pomerium_agent.config.urls import display
from pomerium_agent.pb.pomerium import config_pb2

# Stripped before anything else looks at a route: they change when nothing that matters does.
COMPUTED_IN_ROUTE = ("created_at", "modified_at", "enforced_policies", "assigned_policies", "namespace_name")
COMPUTED_IN_POLICY = ("created_at", "modified_at", "enforced_routes", "assigned_routes", "namespace_name")


def route_id(route: config_pb2.Route) -> str:
    """The explicit id, else a hash of what the route matches and where it leads (routes 1.2, field 28)."""
    if route.id:
        return route.id
    total = hashlib.sha256()
    parts = [text.encode() for text in (from_of(route), route.prefix, route.path, route.regex, *route.to)]
    if route.HasField("redirect"):
        parts += [b"redirect", route.redirect.SerializeToString(deterministic=True)]
    if route.HasField("response"):
        parts += [b"response", route.response.SerializeToString(deterministic=True)]
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return total.hexdigest()[:16]


def from_of(route: config_pb2.Route) -> str:
    """The field `from`, whose name is a word of Python."""
    url: str = getattr(route, "from")
    return url


def strip_computed(route: config_pb2.Route) -> None:
    """Remove, in place, what a server writes for its own user interface."""
    for name in COMPUTED_IN_ROUTE:
        route.ClearField(name)
    for policy in route.policies:
        for name in COMPUTED_IN_POLICY:
            policy.ClearField(name)


def subject_of(route: config_pb2.Route, identity: str) -> str:
    """How every fault names the route: by what its operator called it, and where it is found."""
    where = shown(display(from_of(route)))[1:-1]
    return f"route {shown(route.name or identity)} ({where})"


def place_of(route: config_pb2.Route, source: Source, identity: str) -> SortKey:
    """Where it stands among the others (routes 3.5)."""
    return sort_key(
        source,
        path=route.path,
        regex=route.regex,
        prefix=route.prefix,
        regex_priority=route.regex_priority_order if route.HasField("regex_priority_order") else None,
        route_id=identity,
    )
