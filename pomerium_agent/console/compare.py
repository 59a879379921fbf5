"""What a file would change against a configuration in force: routes, settings, and who gets in. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from pomerium_agent.console.access import AccessChange, compare_access
from pomerium_agent.console.diff import Changes, diff, route_label
from pomerium_agent.pb.pomerium import config_pb2

# Settings that every route's access may hang on.
ACCESS_SETTINGS = frozenset({"downstream_mtls"})


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two configurations, side by side."""

    changes: Changes
    access: tuple[AccessChange, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)

    def lines(self) -> Iterator[str]:
        """As a person reads it."""
        yield from self.changes.lines()
        for each in self.access:
            yield from each.lines()

    def to_json(self) -> dict[str, object]:
        return self.changes.to_json() | {"access": [each.to_json() for each in self.access]}


def compare(old: config_pb2.Config, new: config_pb2.Config, now: datetime) -> Comparison:
    """Everything that `new` changes. Access is only looked at where something has changed."""
    changes = diff(old, new)
    labels = {each.id: each.label for each in (*changes.added, *changes.changed, *changes.removed)}
    if ACCESS_SETTINGS & set(changes.settings):
        labels |= {route.id: route_label(route) for route in new.routes if route.id not in labels}
    return Comparison(changes, compare_access(old, new, labels, now) if labels else ())
