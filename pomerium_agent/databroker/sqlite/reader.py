"""The one thread that reads: it waits for no writer, and no writer for it."""

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pomerium_agent.databroker.sqlite.words import in_plain_words

T = TypeVar("T")


class Reader:
    """Runs one short job after the other, each in one snapshot of the file."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="databroker-read")

    async def run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        """The job's result; raises what it raises, or DatabrokerUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._in_snapshot, job)

    def finish(self) -> "Future[None]":
        """Take nothing more; done once what was begun is."""
        finished = self._thread.submit(self._connection.close)
        self._thread.shutdown(wait=False)
        return finished

    def _in_snapshot(self, job: Callable[[sqlite3.Connection], T]) -> T:
        with in_plain_words(self._path):
            self._connection.execute("BEGIN")
            try:
                return job(self._connection)
            finally:
                self._connection.execute("ROLLBACK")
