"""How a check says what is wrong: one `Unusable` per value, collected into faults that name the item."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from pomerium_agent.config.snapshot import Fault

V = TypeVar("V")
T = TypeVar("T")
SHOWN = 120  # characters of an operator's own text that a message repeats


class Unusable(ValueError):
    """A value that cannot be used: why, and what to do about it. Neither text may hold a secret."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(slots=True)
class Complaints:
    """Everything wrong with one item (a route, the settings, a certificate), in the order it was found."""

    subject: str
    record_id: str = ""
    route_id: str = ""
    faults: list[Fault] = field(default_factory=list)

    def refuse(self, field: str, reason: str, remedy: str) -> None:
        """The item cannot serve as it is."""
        self._add(field, reason, remedy, warning=False)

    def warn(self, field: str, reason: str, remedy: str) -> None:
        """Something harmless is dropped; the item serves all the same."""
        self._add(field, reason, remedy, warning=True)

    def attempt(self, field: str, parse: Callable[[V], T], value: V) -> T | None:
        """Parse a value; when that cannot be done, complain about `field` and return None."""
        try:
            return parse(value)
        except Unusable as why:
            self.refuse(field, why.reason, why.remedy)
            return None

    @property
    def refused(self) -> bool:
        """Whether the item must stand aside."""
        return any(not fault.warning for fault in self.faults)

    def _add(self, field: str, reason: str, remedy: str, *, warning: bool) -> None:
        self.faults.append(
            Fault(
                subject=self.subject,
                field=field,
                reason=reason,
                remedy=remedy,
                record_id=self.record_id,
                route_id=self.route_id,
                warning=warning,
            )
        )


def shown(text: str) -> str:
    """An operator's text, fit for one line of a message: quoted, without control characters, cut when long."""
    cut = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
    if not cut.isprintable():  # rare, and every route is given a name that may be shown
        cut = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut)
    return f'"{cut}"'
