"""Every field of Route and Settings: what it becomes, and whether it works; one table, so that none is forgotten.

Tests hold it against the wire contract, compile every example, and break every field. What `validate` says of a
field that does nothing comes from here, and so do the pages in docs/reference.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pomerium_agent.config.reference import (
    routes_access,
    routes_changes,
    routes_forwarding,
    settings_listeners,
    settings_login,
    settings_upstreams,
)
from pomerium_agent.config.reference.field import Beside, Fate, Field, Topic

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
    settings_listeners.LOGS,
    settings_upstreams.REPLICA,
    settings_upstreams.LATER,
)


def _by_name(topics: Sequence[Topic]) -> Mapping[str, Field]:
    return MappingProxyType({field.name: field for topic in topics for field in topic.fields})


ROUTE_FIELDS = _by_name(ROUTE_TOPICS)
SETTINGS_FIELDS = _by_name(SETTINGS_TOPICS)

__all__ = ["ROUTE_FIELDS", "ROUTE_TOPICS", "SETTINGS_FIELDS", "SETTINGS_TOPICS", "Beside", "Fate", "Field", "Topic"]
