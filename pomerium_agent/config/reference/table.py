"""The topics put together."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pomerium_agent.config.reference import (
    routes_access,
    routes_changes,
    routes_forwarding,
    settings_listeners,
    settings_login,
    settings_logs,
    settings_upstreams,
)
from pomerium_agent.config.reference.field import Fate, Field, Topic

ROUTE_TOPICS: tuple[Topic, ...] = (
    routes_forwarding.MATCHING,
    routes_forwarding.UPSTREAM,
    routes_changes.REWRITES,
    routes_changes.UPSTREAM_TLS,
    routes_access.ACCESS,
    routes_access.LOGIN,
    routes_access.PLATFORMS,
    routes_access.NAMES,
    routes_changes.LATER,
)
SETTINGS_TOPICS: tuple[Topic, ...] = (
    settings_listeners.LISTENERS,
    settings_listeners.CERTIFICATES,
    settings_login.LOGIN,
    settings_login.IDENTITY,
    settings_upstreams.UPSTREAMS,
    settings_listeners.PAGES,
    settings_logs.LOGS,
    settings_upstreams.REPLICA,
    settings_upstreams.LATER,
)


def _by_name(topics: Sequence[Topic]) -> Mapping[str, Field]:
    return MappingProxyType({field.name: field for topic in topics for field in topic.fields})


ROUTE_FIELDS = _by_name(ROUTE_TOPICS)
SETTINGS_FIELDS = _by_name(SETTINGS_TOPICS)

_ROUTE_PATH = re.compile(r"routes\[\d+\]\.")


def example_for(path: str) -> str:
    """A line that sets the field at this place of a configuration file well; empty where one line does not say it."""
    inside = _ROUTE_PATH.sub("", path, count=1)
    field = (ROUTE_FIELDS if inside != path else SETTINGS_FIELDS).get(inside)
    if field is None or field.fate is not Fate.READ or not isinstance(field.example, str | int | float):
        return ""
    if isinstance(field.example, str) and ("${" in field.example or field.example.isupper()):
        return ""  # material that no line shows, or one of a few words, which the message lists
    shown = str(field.example).lower() if isinstance(field.example, bool) else field.example
    return f"{field.name}: {shown}"
