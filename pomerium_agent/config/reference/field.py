"""What the reference knows of one field of Route or Settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple

REFERENCE = "Resolved into another field for entity records (R-3)."  # why a field that names a record does nothing
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Fate(Enum):
    READ = "works"
    IGNORED = "no effect"
    LATER = "not yet"


class Beside(NamedTuple):
    """A value that makes sense, or is wrong, only beside other fields."""

    value: Any
    others: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field: what it becomes, and values that are good and bad for it, as a configuration file has them.

    `broken` is None where no value of its type can be wrong. `${chain:NAME}` and `${key:NAME}` in a value stand for
    the certificate of that name and its private key, base64 of PEM.
    """

    name: str
    priority: str  # of its row in the specification; a dash for what only a control plane is interested in
    fate: Fate
    becomes: str  # or why it has no effect, or what it would be part of
    example: Any = None
    default: str = ""
    broken: Any = None

    @property
    def reason(self) -> str:
        """Why it does nothing."""
        return "" if self.fate is Fate.READ else self.becomes

    @property
    def unsupported(self) -> str:
        """How a fault says that it does nothing yet."""
        return f"{self.becomes}: not supported by this version yet"

    def good(self, **others: Any) -> dict[str, Any]:
        """A configuration that has the example in it."""
        return _document(self.name, self.example, others)

    def bad(self, **others: Any) -> dict[str, Any]:
        """A configuration that has a broken value in it."""
        return _document(self.name, self.broken, others)


@dataclass(frozen=True, slots=True)
class Topic:
    """Fields that belong together, under a heading."""

    title: str
    fields: tuple[Field, ...] = field(default=())
    about: str = ""  # one sentence, where the topic has a page of its own


def works(name: str, priority: str, becomes: str, example: Any, *, default: str = "", broken: Any = None) -> Field:
    """A field that does what it says."""
    return Field(
        name=name,
        priority=priority,
        fate=Fate.READ,
        becomes=becomes,
        example=example,
        default=default,
        broken=broken,
    )


def ignored(reason: str, priority: str, /, **examples: Any) -> tuple[Field, ...]:
    """Fields without effect on the data plane, and why."""
    return tuple(
        Field(name=name, priority=priority, fate=Fate.IGNORED, becomes=reason, example=example)
        for name, example in examples.items()
    )


def later(what: str, priority: str, /, **examples: Any) -> tuple[Field, ...]:
    """Fields for a later version: setting one quarantines a route, and draws a warning among the settings."""
    return tuple(
        Field(name=name, priority=priority, fate=Fate.LATER, becomes=what, example=example)
        for name, example in examples.items()
    )


def _document(name: str, value: Any, others: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(value, Beside):
        return {**others, **value.others, name: value.value}
    return {**others, name: value}
