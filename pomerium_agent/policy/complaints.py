"""What is wrong with an operator's words, said so that it can be mended: where, why, and what to do."""

import difflib
import json
from collections.abc import Iterable
from dataclasses import dataclass

MOST_COMPLAINTS = 200  # of one kind about one text; nobody reads more
SHOWN = 80  # characters of an operator's own words that a message repeats


@dataclass(frozen=True, slots=True, order=True)
class Complaint:
    """One thing in one place. A warning does not keep the text from being used. No text holds a secret."""

    line: int  # 0: a value that was never a text
    path: str  # "routes[3].regex", "allow.and[1].email"; empty: the text as a whole
    reason: str
    remedy: str
    file: str = ""
    warning: bool = False

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        return f"{where}{self.path + ': ' if self.path else ''}{self.reason}; {self.remedy}"

    def to_json(self) -> dict[str, object]:
        return {
            "file": self.file,
            "line": self.line,
            "path": self.path,
            "reason": self.reason,
            "remedy": self.remedy,
            "warning": self.warning,
        }


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str) -> str:
    """The remedy for a word that nobody knows."""
    close = difflib.get_close_matches(word.lower()[:SHOWN], list(known), n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else otherwise


def shown(value: object) -> str:
    """An operator's value, fit for one line of a message: as JSON, and cut when long."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def printable(word: str) -> str:
    """A word of an operator's, fit for a path in a message."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in word[:SHOWN])
