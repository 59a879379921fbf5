"""Where the configuration comes from: the databroker, and until that has one, what was last known to be good.

The control plane's word counts the moment it arrives, and what is stale never replaces anything newer: it is only
served by a replica that has nothing else to serve, and to an Envoy that has the same or nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.callers import Callers, follow_callers
from pomerium_agent.agent.handed import Handed
from pomerium_agent.agent.last_good import Kept, LastGood
from pomerium_agent.config import Compiled
from pomerium_agent.databroker import Backend, MemoryBackend
from pomerium_agent.errors import ConfigRejected
from pomerium_agent.records import Record
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.waiting import first_of
from pomerium_agent.sessions.live import Sessions
from pomerium_agent.zero import DerivedSecrets

log = structlog.get_logger(__name__)

GRACE_SECONDS = 1.0  # that the control plane has to speak before anything stale is served
KEEP_EVERY = 1.0  # seconds between two writes: a burst of changes is written at its beginning and at its end

OpenConfig = Callable[[Backend], AbstractAsyncContextManager[Latest[Compiled | None]]]


@dataclass(slots=True, kw_only=True)
class Supply:
    """Fills `config`; owned by whoever serves visitors. `filled`: the databroker has a configuration; `missed`: the
    control plane was asked for one, and it did not come.

    `handed` is what the agent before us gave the Envoy that runs, as far as it is known.
    """

    config: Latest[Compiled | None]
    filled: Latest[bool]
    missed: Latest[bool]
    databroker: Backend
    open_config: OpenConfig
    last_good: LastGood
    board: Board
    clock: Clock
    sessions: Sessions  # which service accounts are lent to while what is stale is served
    handed: Handed | None = None
    secrets: Latest[DerivedSecrets] | None = None  # of the cluster token; with another one, all is sealed anew
    _live: bool = False  # `config` is what the databroker says
    _taken: Compiled | None = None  # the newest of those that Envoy took
    _backoff: Backoff = field(default_factory=Backoff)  # between tries to write

    async def run(self) -> None:
        """Supply until cancelled."""
        await first_of(until(self.filled), until(self.missed), self.clock.sleep(GRACE_SECONDS))
        if not self.filled.value:
            await self._serve_stale()
        # An empty databroker is not an empty configuration. Until the control plane has told us what there is,
        # an Envoy that we adopted keeps what an agent before us gave it.
        await until(self.filled)
        callers: Latest[Callers] = Latest(None)
        async with self.open_config(self.databroker) as live, asyncio.TaskGroup() as group:
            group.create_task(follow_callers(self.databroker, callers, self.clock), name="follow-callers")
            group.create_task(self._keep(callers), name="keep-last-good")
            await self._pass_on(live, live=True)

    async def _serve_stale(self) -> None:
        """Serve what was kept until the databroker has a configuration, if it may be served."""
        health = self.board.health
        try:
            kept = await self.last_good.load()
        except ConfigRejected as error:
            log.error("the last known good configuration is not used", reason=str(error))
            health.failed(Check.LAST_GOOD, f"not used: {error}")
            return
        if kept is None:
            log.info("no last known good configuration yet", path=str(self.last_good.path))
            return
        if self._envoy_has_another(kept):
            log.error("the last known good configuration is not used", reason="envoy has another one", kept=kept.digest)
            health.failed(Check.LAST_GOOD, "not used: envoy has another configuration, which may be newer")
            return
        age = round((self.clock.now() - kept.at).total_seconds())
        at = kept.at.isoformat(timespec="seconds")
        log.warning("serving the last known good configuration", digest=kept.digest, kept_at=at, age_seconds=age)
        health.failed(
            Check.LAST_GOOD,
            f"serving the last known good configuration, of {at}: no newer one can be had",
            {"kept_at": at, "digest": kept.digest},
        )
        self.board.stale = kept.at
        store = MemoryBackend(self.clock)
        await store.put(kept.records)
        self.sessions.lend(kept.callers, self.clock.now())
        try:
            async with self.open_config(store) as stale:
                await first_of(until(self.filled), self._pass_on(stale))
        finally:
            # Not when the first configuration is live: one that cannot be compiled must not keep an account that the
            # control plane has revoked.
            await self.sessions.take_back()
        await store.close()

    def _envoy_has_another(self, kept: Kept) -> bool:
        """Whether we adopted an Envoy that was handed something else than `kept`, or nobody knows what."""
        handed = self.handed
        adopted = self.board.resumed or (handed is not None and handed.envoy == self.board.envoy_pid.value)
        return adopted and (handed is None or handed.digest != kept.digest)

    async def _pass_on(self, source: Latest[Compiled | None], *, live: bool = False) -> None:
        async with aclosing(source.follow()) as compiled:
            async for each in compiled:
                # Parts of a configuration do not replace a whole one, be it stale.
                if each is None or (not each.whole and self.config.value is not None):
                    continue
                self._live = live
                if live:
                    self.board.stale = None
                self.config.set(each)

    async def _keep(self, callers: Latest[Callers]) -> None:
        """Write down what Envoy took: once for each, again after a failure, and never in anybody's way."""
        written: tuple[str, Callers] = ("", None)
        sealed_with = self.secrets.value if self.secrets else None
        cells = (self.board.in_force, self.config, callers, *((self.secrets,) if self.secrets else ()))
        async with _woken_by(*cells) as woken:
            while True:
                await woken.wait()
                woken.clear()
                if self.secrets is not None and self.secrets.value is not sealed_with:
                    written, sealed_with = ("", None), self.secrets.value
                    self.last_good.rekey(sealed_with.file_key)
                # While Envoy refuses what is newer, the accounts that were taken away meanwhile must not come back
                # with the configuration that it has.
                self._taken = compiled = self._in_force() or self._taken
                called = callers.value
                if compiled is None or called is None or (compiled.snapshot.digest, called) == written:
                    continue
                if await self._write(compiled, called):
                    written = compiled.snapshot.digest, called
                    self._backoff.reset()
                    await self.clock.sleep(KEEP_EVERY)
                else:
                    await first_of(woken.wait(), self.clock.sleep(self._backoff.next()))
                    woken.set()

    def _in_force(self) -> Compiled | None:
        """What the databroker says, whole, and Envoy has taken."""
        compiled = self.config.value
        if compiled is None or not self._live or not compiled.whole:
            return None
        return compiled if compiled.snapshot.digest == self.board.in_force.value else None

    async def _write(self, compiled: Compiled, callers: tuple[Record, ...]) -> bool:
        health, path = self.board.health, self.last_good.path
        digest, records = compiled.snapshot.digest, compiled.records
        kept = Kept(digest=digest, at=self.clock.now(), records=records, callers=callers)
        try:
            await self.last_good.save(kept)
        except OSError as error:
            # Which is also logged, once for as long as it lasts.
            health.failed(Check.LAST_GOOD, f"what is in force is not kept: {path}: {error.strerror or error}")
            return False
        health.running(Check.LAST_GOOD, digest=kept.digest, kept_at=kept.at.isoformat(timespec="seconds"))
        return True


async def until(claim: Latest[bool]) -> None:
    """Return once it is true."""
    async with aclosing(claim.follow()) as values:
        async for true in values:
            if true:
                return


@asynccontextmanager
async def _woken_by(*cells: Latest[Any]) -> AsyncIterator[asyncio.Event]:
    """An event that is set at once, and whenever one of `cells` changes."""
    woken = asyncio.Event()

    async def watch(cell: Latest[Any]) -> None:
        async with aclosing(cell.follow()) as values:
            async for _ in values:
                woken.set()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(watch(cell)) for cell in cells]
        yield woken
        for task in tasks:
            task.cancel()
