"""Hot restart: Envoys that take over from each other, listening sockets included, so that nobody is refused.

What Envoy needs for it are a number that nobody else on the machine uses, a piece of shared memory under that number,
and unix sockets, which we keep in the runtime directory (envoy.md 5, routes.md 12.2).
"""

import os
import random
from dataclasses import dataclass
from pathlib import Path

from pomerium_agent.keeper.children import Patience

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # not ours to choose: shm_open(3)
SOCKETS = "hot"
LARGEST_BASE_ID = 9_999_999  # Envoy multiplies it by ten, and the result is part of paths that may not grow long


@dataclass(frozen=True, slots=True)
class Generation:
    """One Envoy of a line of them: the number of the line, and how many of it were there before."""

    base_id: int
    epoch: int = 0

    @property
    def successor(self) -> "Generation":
        return Generation(self.base_id, self.epoch + 1)


def new_line() -> Generation:
    """The first of a line of its own: it takes nothing over, and so does not mind what its predecessors left."""
    return Generation(random.randint(1, LARGEST_BASE_ID))  # noqa: S311  # a name, not a secret


def hot_restart_works(place: Path = SHARED_MEMORY) -> bool:
    """Whether this machine has the shared memory for it. Containers may be without.

    Where it is full, an Envoy would be killed by the first byte that it writes there.
    """
    if not os.access(place, os.W_OK | os.X_OK):
        return False
    return shared_memory_left(place) != 0


def shared_memory_left(place: Path = SHARED_MEMORY) -> int | None:
    """The bytes that are free there; None where there is no limit."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def flags(generation: Generation, runtime_dir: Path, patience: Patience) -> list[str]:
    """What to add to Envoy's command line."""
    return [
        *("--base-id", str(generation.base_id), "--restart-epoch", str(generation.epoch)),
        *("--socket-path", str(runtime_dir / SOCKETS), "--socket-mode", "600"),
        *("--drain-time-s", str(round(patience.envoy_drain))),
        *("--parent-shutdown-time-s", str(round(patience.envoy_leave))),
    ]


def sweep(generation: Generation, runtime_dir: Path) -> None:
    """Remove what an Envoy leaves behind. Only when none of its line runs."""
    for path in runtime_dir.glob(f"{SOCKETS}_*_{generation.base_id * 10 + generation.epoch}"):
        path.unlink(missing_ok=True)
    (SHARED_MEMORY / f"envoy_shared_memory_{generation.base_id * 10}").unlink(missing_ok=True)
