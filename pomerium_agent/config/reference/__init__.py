"""Every field of Route and Settings: what it becomes, and whether it works; one table, so that none is forgotten.

Tests hold it against the wire contract, compile every example, and break every field. What `validate` says of a
field comes from here as well, and so do the pages in docs/reference.
"""

from pomerium_agent.config.reference.field import Beside, Fate, Field, Topic
from pomerium_agent.config.reference.table import (
    ROUTE_FIELDS,
    ROUTE_TOPICS,
    SETTINGS_FIELDS,
    SETTINGS_TOPICS,
    example_for,
)

__all__ = [
    "ROUTE_FIELDS",
    "ROUTE_TOPICS",
    "SETTINGS_FIELDS",
    "SETTINGS_TOPICS",
    "Beside",
    "Fate",
    "Field",
    "Topic",
    "example_for",
]
