"""What is wrong with an operator's file, said so that it can be mended: where, why, and what to do."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from pomerium_agent.errors import SettingsError


@dataclass(frozen=True, slots=True, order=True)
class Complaint:
    """One thing in one place. A warning does not keep the file from being applied. No text holds a secret."""

    line: int
    path: str  # "routes[3].regex"; empty: the file as a whole
    reason: str
    remedy: str
    file: str = ""
    warning: bool = False

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " + (f"{self.path}: " if self.path else "")
        return f"{where}{self.reason}; {self.remedy}"

    def to_json(self) -> dict[str, object]:
        return {
            "file": self.file,
            "line": self.line,
            "path": self.path,
            "reason": self.reason,
            "remedy": self.remedy,
            "warning": self.warning,
        }


class FileRefused(SettingsError):
    """A file is not applied. The text lists every reason, one a line."""

    def __init__(self, complaints: Iterable[Complaint]) -> None:
        self.complaints = tuple(sorted(complaints))
        count = sum(1 for complaint in self.complaints if not complaint.warning)
        things = "one thing is" if count == 1 else f"{count} things are"
        lines = (f"{'warning: ' if complaint.warning else ''}{complaint}" for complaint in self.complaints)
        super().__init__(f"nothing was changed, since {things} wrong:\n" + "\n".join(lines))


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str) -> str:
    """The remedy for a word that nobody knows."""
    close = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else otherwise
