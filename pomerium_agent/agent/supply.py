"""Where the configuration comes from: the databroker, and until that has one, what was last known to be good.

The control plane's word counts the moment it arrives, and what is stale never replaces anything newer: it is only
served by a replica that has nothing else to serve.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass

import structlog

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.last_good import Kept, LastGood
from pomerium_agent.config import Compiled
from pomerium_agent.databroker import Backend, MemoryBackend
from pomerium_agent.errors import ConfigRejected
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.waiting import first_of

log = structlog.get_logger(__name__)

GRACE_SECONDS = 1.0  # that the control plane has to speak before anything stale is served

OpenConfig = Callable[[Backend], AbstractAsyncContextManager[Latest[Compiled | None]]]


@dataclass(slots=True, kw_only=True)
class Supply:
    """Fills `config`; owned by whoever serves visitors. `filled`: the databroker has a configuration."""

    config: Latest[Compiled | None]
    filled: Latest[bool]
    databroker: Backend
    open_config: OpenConfig
    last_good: LastGood
    board: Board
    clock: Clock
    _live: bool = False  # `config` is what the databroker says

    async def run(self) -> None:
        """Supply until cancelled."""
        await first_of(until(self.filled), self.clock.sleep(GRACE_SECONDS))
        if not self.filled.value and not self.board.resumed:
            await self._serve_stale()
        # An empty databroker is not an empty configuration. Until the control plane has told us what there is,
        # an Envoy that we adopted keeps what an agent before us gave it.
        await until(self.filled)
        self.board.stale = None
        async with self.open_config(self.databroker) as live, asyncio.TaskGroup() as group:
            group.create_task(self._keep(), name="keep-last-good")
            await self._pass_on(live, live=True)

    async def _serve_stale(self) -> None:
        try:
            kept = await self.last_good.load()
        except ConfigRejected as error:
            log.error("the last known good configuration is not used", reason=str(error))
            return
        if kept is None:
            log.info("no last known good configuration yet", path=str(self.last_good.path))
            return
        age = round((self.clock.now() - kept.at).total_seconds())
        log.warning("serving the last known good configuration", digest=kept.digest, age_seconds=age)
        self.board.stale = kept.at
        store = MemoryBackend(self.clock)
        await store.put(kept.records)
        async with self.open_config(store) as stale:
            await first_of(until(self.filled), self._pass_on(stale))
        await store.close()

    async def _pass_on(self, source: Latest[Compiled | None], *, live: bool = False) -> None:
        async with aclosing(source.follow()) as compiled:
            async for each in compiled:
                if each is not None:
                    self._live = live
                    self.config.set(each)

    async def _keep(self) -> None:
        """Write down what Envoy took, once for each."""
        health = self.board.health
        async for compiled in _in_force(self.board.in_force, self.config):
            if not self._live:
                continue
            kept = Kept(digest=compiled.snapshot.digest, at=self.clock.now(), records=compiled.records)
            try:
                await self.last_good.save(kept)
            except OSError as error:
                log.error("the configuration in force was not kept", path=str(self.last_good.path), reason=str(error))
                health.failed(Check.LAST_GOOD, f"cannot write {self.last_good.path}: {error.strerror}")
            else:
                health.running(Check.LAST_GOOD, digest=kept.digest)


async def until(claim: Latest[bool]) -> None:
    """Return once it is true."""
    async with aclosing(claim.follow()) as values:
        async for true in values:
            if true:
                return


async def _in_force(digest: Latest[str], config: Latest[Compiled | None]) -> AsyncIterator[Compiled]:
    async with aclosing(digest.follow()) as digests:
        async for each in digests:
            compiled = config.value
            if compiled is not None and each == compiled.snapshot.digest:
                yield compiled
