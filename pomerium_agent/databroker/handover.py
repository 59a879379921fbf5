"""The hand-over of records from one agent to the next, where the store is one agent's own (memory, a file).

    the one that leaves   hold ───► held ───────────────► succeeded ───► left
    the one that comes    copied ─────────► due ───► settled ────┘

At every moment one of the two writes, and no write is lost: what the leaving one is asked to write between `held` and
`succeeded` waits, and is then written at the new one's. A store that both share, PostgreSQL, needs none of this.
"""

from dataclasses import dataclass, field
from pathlib import Path

from pomerium_agent.runtime.latest import Latest


def _no() -> Latest[bool]:
    return Latest(False)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOver:
    """What the two agents tell their storage, and what it says; each cell is false until it is true.

    `predecessor` is the databroker socket of the agent whose place we take, None when there is no such agent;
    `successor` is where that of the next one will be.
    """

    successor: Path
    predecessor: Path | None = None
    # Told.
    due: Latest[bool] = field(default_factory=_no)  # we are in charge, and the predecessor writes nothing any more
    alone: Latest[bool] = field(default_factory=_no)  # the predecessor is gone; what we have of it is all there is
    hold: Latest[bool] = field(default_factory=_no)  # somebody is about to take our place
    succeeded: Latest[bool] = field(default_factory=_no)  # and has taken it
    # Said.
    copied: Latest[bool] = field(default_factory=_no)
    settled: Latest[bool] = field(default_factory=_no)
    held: Latest[bool] = field(default_factory=_no)
    left: Latest[bool] = field(default_factory=_no)
