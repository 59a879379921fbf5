"""What the preparation of a policy carries along: where we are, by which dialect, and what was found wrong."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from pomerium_agent.policy.complaints import MOST_COMPLAINTS, Complaint
from pomerium_agent.policy.dialect import Dialect
from pomerium_agent.policy.facts import Facts
from pomerium_agent.policy.results import Result

Check = Callable[[Facts], Result]
Look = Callable[[Facts], object]


class Place(NamedTuple):
    """A spot in a policy's text."""

    line: int
    path: str


class Needs(Enum):
    """What has to be known before a criterion has an answer."""

    REQUEST = "request"
    IDENTITY = "identity"  # the session- and device-kind criteria of policy 6: unknown of a stranger (D1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Criterion:
    """One prepared test. `check` is pure and total (P-28); `look` shows what it reads, for explain."""

    key: str
    data: object
    line: int
    path: str
    needs: Needs
    reads: frozenset[str]
    check: Check
    look: Look


@dataclass(slots=True)
class Compiling:
    """`closing` is the value of a criterion that nobody can evaluate, where it stands: the one that lets nobody in."""

    dialect: Dialect
    source: str
    closing: bool = False
    unsupported: bool = False  # the policy is right, and we cannot evaluate it (P-25)
    refused: int = 0
    warned: int = 0
    complaints: list[Complaint] = field(default_factory=list)

    def refuse(self, place: Place, reason: str, remedy: str) -> None:
        """The policy cannot be used as it is."""
        self.refused += 1
        if self.refused <= MOST_COMPLAINTS:
            self.complaints.append(Complaint(place.line, place.path, reason, remedy, self.source))

    def warn(self, place: Place, reason: str, remedy: str) -> None:
        """The policy does what it says, which is hardly what was meant."""
        self.warned += 1
        if self.warned <= MOST_COMPLAINTS:
            self.complaints.append(Complaint(place.line, place.path, reason, remedy, self.source, warning=True))
