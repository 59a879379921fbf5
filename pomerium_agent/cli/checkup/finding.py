"""What one check found."""

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    OK = "ok"
    NOTE = "note"  # worth a look; it may be meant
    FAILED = "failed"
    SKIPPED = "skipped"  # could not be looked at, and why


class Finding(NamedTuple):
    """`remedy` is one sentence that says what to do, empty when there is nothing to do. Neither holds a secret."""

    check: str
    state: State
    found: str
    remedy: str = ""


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding(check, State.OK, found)


def note(check: str, found: str, remedy: str) -> Finding:
    """It may be meant that way."""
    return Finding(check, State.NOTE, found, remedy)


def failed(check: str, found: str, remedy: str) -> Finding:
    """It will not work before it is mended."""
    return Finding(check, State.FAILED, found, remedy)


def skipped(check: str, why: str) -> Finding:
    """It could not be looked at."""
    return Finding(check, State.SKIPPED, why)
