"""Opening the file: owned, checked, brought to the newest shape."""

import asyncio
import sqlite3
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pomerium_agent.databroker.sqlite.place import Ownership, owned
from pomerium_agent.databroker.sqlite.schema import connect, open_checked
from pomerium_agent.databroker.sqlite.transaction import Head, Transaction, read_head
from pomerium_agent.databroker.sqlite.words import in_plain_words


@dataclass(frozen=True, slots=True)
class Opened:
    """The file, owned: let go of it by closing `owner`."""

    path: Path
    ownership: Ownership
    owner: ExitStack
    writing: sqlite3.Connection
    reading: sqlite3.Connection
    head: Head


async def open_file(directory: Path) -> Opened:
    """Open or make the file in `directory`; who is cancelled meanwhile owns nothing. Raises as `open_sqlite` does."""
    opening = asyncio.get_running_loop().run_in_executor(None, _open, directory)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_let_go)
        raise


def _open(directory: Path) -> Opened:
    with ExitStack() as owner:
        ownership = owner.enter_context(owned(directory))
        path = ownership.file
        with in_plain_words(path):
            writing = open_checked(path)
            owner.callback(writing.close)
            writing.execute("BEGIN IMMEDIATE")
            Transaction(writing, read_head(writing)).set_built_in_options()
            writing.execute("COMMIT")
            reader = connect(path)
            owner.callback(reader.close)
            return Opened(path, ownership, owner.pop_all(), writing, reader, read_head(writing))


def _let_go(opening: "asyncio.Future[Opened]") -> None:
    """Nobody waits for it any more."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().owner.close()
