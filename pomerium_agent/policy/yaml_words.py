"""What a plain word of a YAML text means: YAML 1.2, and the reference's decoder where a policy is read (policy 2.1)."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache

WORDS: Mapping[str, str] = {
    "bool": r"true|True|TRUE|false|False|FALSE",
    "null": r"~|null|Null|NULL|",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "timestamp": (
        r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}"
        r"([Tt][0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(\.[0-9]+)?(Z|[-+][0-9]{2}:[0-9]{2})"
        r"| [0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(\.[0-9]+)?)?"
    ),
    "merge": r"<<",
}
# The reference's decoder takes YAML 1.1's numbers along.
GO_WORDS: Mapping[str, str] = {
    **WORDS,
    "int": r"[-+]?(0|[1-9][0-9_]*|0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO]?[0-7_]+)",
    "float": r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}
_PARTS = re.compile(
    r"([0-9]{4})-([0-9]+)-([0-9]+)(?:[Tt ]([0-9]+):([0-9]+):([0-9]+)(\.[0-9]+)?(Z|[-+][0-9]{2}:[0-9]{2})?)?"
)
_UNLIKE_TEXT = frozenset("0123456789+-.~<tTfFnN")  # what a word that is no text may begin with
_LONGEST = 70  # digits of a whole number; more are a float


def word_teller(words: Mapping[str, str]) -> Callable[[str], str]:
    """A function from a plain word to what it is: one of the names in `words`, or "str"."""
    patterns = tuple((kind, re.compile(pattern)) for kind, pattern in words.items())

    @lru_cache(maxsize=65_536)  # most words of a long file are its keys, again and again
    def kind_of(word: str) -> str:
        if word and word[0] not in _UNLIKE_TEXT:
            return "str"
        return next((kind for kind, pattern in patterns if pattern.fullmatch(word)), "str")

    return kind_of


def plain_whole(text: str) -> int:
    """A whole number of YAML 1.2: 014 is fourteen. Raises ValueError."""
    return int(text, 0 if text[:2] in ("0x", "0o") else 10)


def go_whole(text: str) -> int | float:
    """A whole number as Go reads it: 014 is twelve; what 64 bits cannot hold is a float. Raises ValueError."""
    bare = text.replace("_", "")
    sign, digits = (-1, bare[1:]) if bare[:1] == "-" else (1, bare.removeprefix("+"))
    if len(digits) > _LONGEST:
        return sign * float(digits)
    number = sign * int(digits, 8 if re.fullmatch(r"0[0-7]+", digits) else 0)
    return number if -(2**63) <= number < 2**64 else float(number)


def is_moment(text: str) -> bool:
    """Whether the calendar and the clock know such a time; else it is only a word."""
    parts = _PARTS.fullmatch(text)
    if parts is None:
        return False
    try:
        datetime(*(int(part or 0) for part in parts.groups()[:6]))  # type: ignore[arg-type]  # noqa: DTZ001  # a check
    except ValueError:
        return False
    return True


def rfc3339(text: str) -> str:
    """`2020-1-2` as `2020-01-02T00:00:00Z`; a time without a zone is UTC. `text` is a moment."""
    parts = _PARTS.fullmatch(text)
    assert parts is not None  # noqa: S101  # the resolver matched the same shape
    year, month, day, hour, minute, second = (int(part or 0) for part in parts.groups()[:6])
    fraction = (parts[7] or "").rstrip("0").rstrip(".")
    zone = "Z" if parts[8] in (None, "Z", "+00:00") else parts[8]
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}"
