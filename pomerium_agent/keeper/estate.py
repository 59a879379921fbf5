"""What a keeper leaves to the one that takes over its process by exec: a file in memory that names what stays open.

The process id, its children and every socket are the same afterwards (architecture.md 1). The new keeper proves first,
as a child of the old one, that it can read this and its settings.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ADOPT = "POMERIUM_AGENT_ADOPT"  # the descriptor of the file
FORMAT = 1
# What the keeper is made of, below the folder of the package.
CODE = ("keeper/*.py", "cli/run.py", "errors.py", "settings.py", "runtime/backoff.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Estate:
    """Numbers of descriptors and processes, and what must be known of them. Parts the next format may add to."""

    code: str  # of the keeper that leaves it
    runtime_dir: str
    created: bool  # the directory is ours to remove
    lock: int
    listening: dict[str, int]
    instance: str
    agent: dict[str, Any]
    envoy: dict[str, Any]
    caller: int = 0  # who asked for it and waits
    then_agent: bool = False  # the agent is to be replaced next
    format: int = field(default=FORMAT)

    @property
    def descriptors(self) -> list[int]:
        """All that have to stay open."""
        return [number for number in (self.lock, *self.listening.values(), self.agent["link"], self.caller) if number]

    def write(self) -> int:
        """A descriptor of a file in memory that says all this."""
        number = os.memfd_create("pomerium-agent-keeper")
        text = json.dumps({name: getattr(self, name) for name in self.__slots__})
        os.write(number, text.encode())
        return number


def read_estate(number: int) -> Estate:
    """Raises ValueError for one that a keeper of this version cannot take over."""
    try:
        said = json.loads(os.pread(number, 1 << 20, 0))
        form = said["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"what the running keeper leaves cannot be read: {error}") from error
    if form != FORMAT:
        raise ValueError(f"what the running keeper leaves has the format {form}, and not {FORMAT}")
    try:
        return Estate(**said)
    except TypeError as error:
        raise ValueError(f"what the running keeper leaves is not understood: {error}") from error


def code_digest() -> str:
    """Of the source that a keeper runs, as it is on disk now."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for pattern in CODE:
        for path in sorted(package.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
