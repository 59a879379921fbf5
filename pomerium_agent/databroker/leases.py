"""Doing a job at one replica at a time: hold a lease while it runs, and stop before another may start.

    acquire ──taken by another──► next tick (half the ttl) ──► acquire
       │ got it
       ▼
    run the job, renew every half ttl ──┬─ job ends or fails, or we are cancelled ──► release, leave
                                        └─ lost: said so, or not renewed in time ──► stop the job, release, acquire

Zero link 9; Z-29, Z-30. A renewal that fails is tried again for as long as the lease is surely ours (W13). Surely
means: counted from before the request that took it, and with a margin in which the job can come to its end.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import NoReturn

import structlog

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.errors import AgentError, Retryable
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.clock import Clock

log = structlog.get_logger(__name__)

RELEASE_BUDGET = 30.0  # seconds that giving the lease back may take; after that it expires by itself
MARGIN = 0.1  # part of the ttl that is left for stopping the job
RETRY_CAP = 0.05  # part of the ttl: the longest wait before a failed renewal is tried again (jitter on top)


class _Lost(AgentError):
    """Another replica may have the lease now."""


class Holder:
    """Under which name a replica holds a lease: all its agents use the same.

    So an agent that was started in the place of one that was killed goes on with its lease, and need not wait for the
    end of it (D-20). Once a release may still be on its way the name is not used again: it would end the next hold.
    """

    def __init__(self, replica: str = "") -> None:
        self.name = replica or _random_name()

    def change(self) -> None:
        """Use another name from now on."""
        self.name = _random_name()


async def hold_lease(
    backend: Backend,
    name: str,
    ttl: timedelta,
    run: Callable[[], Awaitable[None]],
    clock: Clock,
    holder: Holder | None = None,
) -> None:
    """Run the job `run` whenever this replica has the lease `name`; return when the job does.

    An error of the job leaves here as it is, and so does DatabrokerUnavailable while the lease is being acquired;
    `supervise` knows what to do with either. The lease is given back in any case. Without `holder` it is held under
    another name each time.
    """
    while True:
        hold = _Hold(backend, name, ttl, clock, holder or Holder())
        try:
            await hold.acquire()
            if await hold.run(run):
                return
        finally:
            await hold.release()


class _Hold:
    """One life of a lease, under one name."""

    def __init__(self, backend: Backend, name: str, ttl: timedelta, clock: Clock, holder: Holder) -> None:
        self._backend = backend
        self._name = name
        self._ttl = ttl
        self._clock = clock
        self._names = holder
        self._holder = holder.name
        self._tick = ttl.total_seconds() / 2
        self._ours_until = 0.0
        self._perhaps_ours = False

    async def acquire(self) -> None:
        while not await self._take():
            await self._clock.sleep(self._tick)
        log.info("lease acquired", lease=self._name)

    async def run(self, job: Callable[[], Awaitable[None]]) -> bool:
        """True when the job came to its end, False when the lease was lost and the job was stopped."""
        try:
            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(self._renew()), group.create_task(self._watch())]
                await job()
                for keeper in keepers:
                    keeper.cancel()
        except BaseExceptionGroup as failed:
            _, others = failed.split(_Lost)
            if others is not None:
                raise (others.exceptions[0] if len(others.exceptions) == 1 else others) from None
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # we were told to stop just when the lease was lost
                raise asyncio.CancelledError from None
            log.warning("lease lost, job stopped", lease=self._name)
            return False
        return True

    async def release(self) -> None:
        if not self._perhaps_ours:
            return
        try:
            async with asyncio.timeout(RELEASE_BUDGET):
                await self._backend.release(self._name, self._holder)
            self._perhaps_ours = False
        except (Retryable, TimeoutError) as error:
            log.warning("lease not given back, it will expire", lease=self._name, reason=str(error) or "timeout")
        finally:
            if self._perhaps_ours:
                self._names.change()

    async def _take(self) -> bool:
        """Whether the lease is ours, for long enough to do something with it."""
        began = self._clock.monotonic()
        self._perhaps_ours = True  # until we hear otherwise: the answer may get lost
        if not await self._backend.lease(self._name, self._holder, self._ttl):
            self._perhaps_ours = False
            return False
        self._ours_until = began + self._ttl.total_seconds() * (1 - MARGIN)
        return self._clock.monotonic() < self._ours_until

    async def _renew(self) -> NoReturn:
        backoff = Backoff(cap=self._ttl.total_seconds() * RETRY_CAP)
        wait = self._tick
        while True:
            await self._clock.sleep(wait)
            try:
                if not await self._take():
                    raise _Lost(self._name)
            except Retryable as error:
                wait = backoff.next()
                log.warning("lease not renewed, trying again", lease=self._name, reason=str(error))
            else:
                backoff.reset()
                wait = self._tick

    async def _watch(self) -> NoReturn:
        """A renewal may hang as well as fail; time passes all the same."""
        while (left := self._ours_until - self._clock.monotonic()) > 0:
            await self._clock.sleep(left)
        raise _Lost(self._name)


def _random_name() -> str:
    return str(uuid.uuid4())
