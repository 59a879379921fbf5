"""Leaving the records of our own store to the agent that takes our place, without losing a write."""

import asyncio

import structlog

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.changing import HELD_SECONDS, Change
from pomerium_agent.databroker.handover import HandOver
from pomerium_agent.databroker.homes import Homes
from pomerium_agent.databroker.kinds import storage_kind
from pomerium_agent.databroker.sqlite import SqliteBackend
from pomerium_agent.databroker.switching import Store
from pomerium_agent.errors import Retryable
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.waiting import first_of, until_is

log = structlog.get_logger(__name__)

LOOK_AGAIN = 0.1  # seconds between tries to have our file again


class Leaving:
    """Waits for the hold, keeps writes back, and sends them where the records went, or lets them go on here."""

    def __init__(self, change: Change, homes: Homes, handover: HandOver, clock: Clock) -> None:
        self._change = change
        self._homes = homes
        self._handover = handover
        self._clock = clock
        self._behind: Backend | None = None  # the store that the other agent has now

    async def run(self) -> None:
        """For ever."""
        while True:
            await until_is(self._handover.hold, True)
            if storage_kind(self._change.name) == "postgres":  # both of us write there, as any two replicas do
                await self._say_held()
            else:
                await self._hold()
            if self._handover.succeeded.value:
                self._handover.left.set(True)
            await until_is(self._handover.hold, False)

    async def close(self) -> None:
        """Let go of what was left behind."""
        if self._behind is not None:
            await self._homes.close(self._behind)

    async def _hold(self) -> None:
        store = self._change.databroker.store
        async with store.held():
            if isinstance(store.backend, SqliteBackend):
                store.backend.ownership.give_up()
            await self._say_held()
            if self._handover.succeeded.value:
                self._go_on_in(self._homes.borrow(self._change.name, self._handover.successor))
            elif isinstance(store.backend, SqliteBackend):
                # The other agent may have written there before it came to nothing.
                self._go_on_in(await self._opened_again())

    async def _say_held(self) -> None:
        self._handover.held.set(True)
        await first_of(until_is(self._handover.hold, False), until_is(self._handover.succeeded, True))
        self._handover.held.set(False)

    def _go_on_in(self, backend: Backend) -> None:
        self._behind = self._change.databroker.replace(Store(backend)).backend
        self._homes.use(backend)

    async def _opened_again(self) -> Backend:
        while True:
            try:
                async with asyncio.timeout(HELD_SECONDS):
                    return await self._homes.open(self._change.name)
            except (Retryable, TimeoutError) as error:
                log.warning("the file store cannot be had again yet", reason=str(error) or "no answer in time")
                await self._clock.sleep(LOOK_AGAIN)
