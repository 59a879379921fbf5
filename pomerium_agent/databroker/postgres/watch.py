"""The one connection that listens: it hears of changes, looks by itself now and then, and knows if the store is there.

    connect, migrate ──► LISTEN ──► look ──► wait for a notification, at most POLL seconds ──► look …
       │ cannot                      │ lost: connect again
       ▼                             ▼
    readers are told, backoff, connect again

A notification that is lost costs a reader at most POLL seconds (V2, D-32).
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import structlog

from pomerium_agent.databroker.options import BUILT_IN_OPTIONS
from pomerium_agent.databroker.postgres.link import Connection, Link, translated
from pomerium_agent.databroker.postgres.schema import apply_options, migrate
from pomerium_agent.databroker.postgres.tail import Tail
from pomerium_agent.errors import DatabrokerUnavailable, InvalidRequest
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.waiting import first_of

log = structlog.get_logger(__name__)

CHANNEL = "pomerium_record_change"
POLL = 5.0  # seconds
SETTLE = 0.05  # seconds until the next look while somebody's transaction keeps readers waiting
LOOK_SECONDS = 5.0
MIGRATE_SECONDS = 300.0
RETRY_CAP = 5.0  # seconds; a failover should not last longer here than there


class Watch:
    """Keeps a Tail up to date for as long as `run` runs."""

    def __init__(self, link: Link, tail: Tail, clock: Clock, health: Health) -> None:
        self._link = link
        self._tail = tail
        self._clock = clock
        self._health = health
        self._poked = asyncio.Event()
        self._options_applied = False
        self.backoff = Backoff(first=0.25, cap=RETRY_CAP)
        self.tried = asyncio.Event()  # set after the first attempt, whatever came of it

    def poke(self) -> None:
        """Look at once: something changed."""
        self._poked.set()

    async def run(self) -> NoReturn:
        """One life of the listening connection; raises DatabrokerUnavailable at its end, for `supervise`."""
        try:
            connection = await self._open()
        except DatabrokerUnavailable as error:
            self._lost(str(error))
            raise
        finally:
            self.tried.set()
        try:
            while True:  # what ends it is told to `supervise`, which has it connect again
                self._poked.clear()
                with _any_failure():
                    async with asyncio.timeout(LOOK_SECONDS):
                        await self._tail.advance(connection)
                self._found()
                wait = SETTLE if self._tail.waits else POLL
                await first_of(self._poked.wait(), self._clock.sleep(wait))
        finally:
            if not connection.is_closed():  # nobody answers; on the other connections nobody will, either
                self._link.drop()
            connection.terminate()

    async def _open(self) -> Connection:
        connection = await self._link.connect()
        try:
            with _any_failure():
                async with asyncio.timeout(MIGRATE_SECONDS):
                    if await migrate(connection) or not self._options_applied:
                        await apply_options(connection, BUILT_IN_OPTIONS)
                        self._options_applied = True
                async with asyncio.timeout(LOOK_SECONDS):
                    await connection.add_listener(CHANNEL, lambda *_: self.poke())
                    connection.add_termination_listener(lambda *_: self.poke())
                    await self._tail.advance(connection)
        except BaseException:
            connection.terminate()
            raise
        self._found()
        self._tail.wake()  # a notification may have been lost while nobody listened
        return connection

    def _found(self) -> None:
        self._health.running(Check.STORAGE, backend="postgres")
        if self._tail.out_of_reach:
            log.info("database reached")
            self._tail.out_of_reach = ""
            self.backoff.reset()
            self._tail.wake()

    def _lost(self, reason: str) -> None:
        self._health.failed(Check.STORAGE, reason, {"backend": "postgres"})
        if not self._tail.out_of_reach:
            log.warning("database out of reach", reason=reason)
        self._tail.out_of_reach = reason
        self._link.drop()
        self._tail.wake()


@contextmanager
def _any_failure() -> Iterator[None]:
    """Nobody gave us a value here, so one that is refused means that the database is not what we take it for."""
    try:
        with translated():
            yield
    except InvalidRequest as error:
        raise DatabrokerUnavailable(str(error)) from error
