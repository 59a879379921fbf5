"""The one thread that writes: what comes while a commit is under way shares the next one."""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar, cast

from pomerium_agent.databroker.sqlite.transaction import Head, Transaction
from pomerium_agent.databroker.sqlite.words import in_plain_words
from pomerium_agent.errors import AgentError, InvalidRequest
from pomerium_agent.records import Record

T = TypeVar("T")
TOGETHER = 64  # writes that share a commit


@dataclass(frozen=True, slots=True)
class Committed:
    """What became durable in one commit: the log's new ends, and the changes in version order."""

    head: Head
    changes: tuple[Record, ...]


@dataclass(slots=True)
class _Write(Generic[T]):
    job: Callable[[Transaction], T]
    results: list[T] = field(default_factory=list)
    error: AgentError | None = None


class Writer:
    """Runs jobs one after the other, each whole or not at all; `committed` hears of each commit on the event loop.

    A commit waits for the disk, which takes longer than the writes in it. So whatever waits is written in one go, and
    nobody is told that it is done before the commit is. If the commit fails, all that was in it failed.
    """

    def __init__(
        self, connection: sqlite3.Connection, path: Path, head: Head, committed: Callable[[Committed], None]
    ) -> None:
        self._connection = connection
        self._path = path
        self._head = head
        self._committed = committed
        self._waiting: deque[_Write[object]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="databroker-write")

    async def run(self, job: Callable[[Transaction], T]) -> T:
        """Do the job durably and return its result; raises what it raises, or DatabrokerUnavailable.

        Who is cancelled while it waits does not know whether it was done; it is done whole or not at all.
        """
        write: _Write[T] = _Write(job)
        self._waiting.append(cast("_Write[object]", write))
        turn = asyncio.get_running_loop().run_in_executor(self._thread, self._write_waiting)
        turn.add_done_callback(self._publish)
        # The turn that took our write is this one or one before it, as turns are taken in order.
        await asyncio.shield(turn)
        if write.error is not None:
            raise write.error
        return write.results[0]

    def finish(self, last: Callable[[], None]) -> "Future[None]":
        """Take nothing more; when what was begun is done, do `last` in the same thread."""
        finished = self._thread.submit(last)
        self._thread.shutdown(wait=False)
        return finished

    def _publish(self, turn: "asyncio.Future[Committed | None]") -> None:
        if not turn.cancelled() and turn.exception() is None:
            committed = turn.result()
            if committed is not None:
                self._committed(committed)

    # In the thread.

    def _write_waiting(self) -> Committed | None:
        writes: list[_Write[object]] = []
        with suppress(IndexError):
            while len(writes) < TOGETHER:
                writes.append(self._waiting.popleft())
        if not writes:
            return None
        try:
            with in_plain_words(self._path):
                return self._write_together(writes)
        except AgentError as error:
            for write in writes:
                write.error = write.error or error
            return None

    def _write_together(self, writes: list[_Write[object]]) -> Committed:
        head, changes = self._head, []
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for write in writes:
                transaction = Transaction(self._connection, head)
                self._connection.execute("SAVEPOINT one")
                try:
                    with in_plain_words(self._path):
                        write.results.append(write.job(transaction))
                except InvalidRequest as error:
                    self._connection.execute("ROLLBACK TO one")
                    write.error = error
                else:
                    head = transaction.head
                    changes += transaction.changes
                self._connection.execute("RELEASE one")
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:  # it did not come to the commit, or the commit failed
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
        self._head = head
        return Committed(head, tuple(changes))
