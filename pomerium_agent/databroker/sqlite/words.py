"""What SQLite complains of, in words for whoever looks after the machine."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pomerium_agent.errors import DatabrokerUnavailable, InvalidRequest

_REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space, nothing that was confirmed is lost",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
    sqlite3.SQLITE_READONLY: "it may not be written to",
    sqlite3.SQLITE_PERM: "access is refused",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_BUSY: "another program holds it locked",
    sqlite3.SQLITE_LOCKED: "another program holds it locked",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore it from a backup, or move it away to begin anew",
    sqlite3.SQLITE_NOTADB: "it is not, or no longer, a SQLite file; nothing was overwritten",
}


@contextmanager
def in_plain_words(path: Path) -> Iterator[None]:
    """Raise what the rest of the agent understands: DatabrokerUnavailable, or InvalidRequest for odd characters."""
    try:
        yield
    except sqlite3.Error as error:
        raise DatabrokerUnavailable(f"the file store {path}: {reason(error)}") from error
    except (UnicodeEncodeError, OverflowError) as error:
        raise InvalidRequest(f"a record holds what no store can keep: {error}") from error


def reason(error: sqlite3.Error) -> str:
    """Why it failed."""
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(code, int) and code & 0xFF in _REASONS:
        return _REASONS[code & 0xFF]
    return str(error)
