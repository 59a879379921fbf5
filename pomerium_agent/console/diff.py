"""What changes between two configurations, in plain words: names of things and fields, never their secrets. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.message import Message

from pomerium_agent.pb.pomerium import config_pb2

SHOWN = 20  # routes listed of each kind of change; the rest is counted


@dataclass(frozen=True, slots=True)
class RouteChange:
    """One route before and after. `fields` names what differs."""

    id: str
    label: str
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """Everything that differs between two configurations."""

    added: tuple[RouteChange, ...] = ()
    removed: tuple[RouteChange, ...] = ()
    changed: tuple[RouteChange, ...] = ()
    settings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed or self.settings)

    def lines(self) -> Iterator[str]:
        """The changes as a person reads them, one a line."""
        for sign, word, routes in (
            ("+", "new", self.added),
            ("-", "gone", self.removed),
            ("~", "changed", self.changed),
        ):
            for route in routes[:SHOWN]:
                yield f"{sign} route {route.label}" + (f": {', '.join(route.fields)}" if route.fields else "")
            if len(routes) > SHOWN:
                yield f"{sign} and {len(routes) - SHOWN} more routes {word}"
        if self.settings:
            yield f"~ settings: {', '.join(self.settings)}"

    def to_json(self) -> dict[str, object]:
        def routes(changes: tuple[RouteChange, ...]) -> list[dict[str, object]]:
            return [{"id": each.id, "route": each.label, "fields": list(each.fields)} for each in changes]

        return {
            "added": routes(self.added),
            "removed": routes(self.removed),
            "changed": routes(self.changed),
            "settings": list(self.settings),
        }


def diff(old: config_pb2.Config, new: config_pb2.Config) -> Changes:
    """Compare route by route (by id) and setting by setting. The order of routes does not count."""
    before = {route.id: route for route in old.routes}
    after = {route.id: route for route in new.routes}
    changed = (
        RouteChange(route_id, route_label(route), fields)
        for route_id, route in after.items()
        if route_id in before and (fields := _fields(before[route_id], route))
    )
    return Changes(
        added=tuple(RouteChange(i, route_label(route)) for i, route in after.items() if i not in before),
        removed=tuple(RouteChange(i, route_label(route)) for i, route in before.items() if i not in after),
        changed=tuple(changed),
        settings=_fields(old.settings, new.settings),
    )


def route_label(route: config_pb2.Route) -> str:
    """A route as an operator would point at it: `https://app.example.com/api → http://app:8080`."""
    match = route.path or route.prefix or (f" (regex {route.regex})" if route.regex else "")
    if route.HasField("redirect") and route.redirect.ListFields():
        target = "a redirect"
    elif route.HasField("response"):
        target = f"the answer {route.response.status}"
    else:
        target = ", ".join(route.to)
    name = f"{route.name}: " if route.name else ""
    return f"{name}{getattr(route, 'from')}{match}" + (f" → {target}" if target else "")


def _fields(old: Message, new: Message) -> tuple[str, ...]:
    """The names of the fields that differ, `policies` by the name an operator knows it by."""
    if old == new:
        return ()
    names = (field.name for field in new.DESCRIPTOR.fields if _differs(old, new, field.name, field.has_presence))
    return tuple("policy" if name == "policies" else name for name in names)


def _differs(old: Message, new: Message, name: str, presence: bool) -> bool:
    if presence and old.HasField(name) != new.HasField(name):
        return True
    return bool(getattr(old, name) != getattr(new, name))
