"""Which store the records of this replica live in, its lifetime, and the change to another one while all goes on."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import structlog

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.carry import Carrier, OldStoreGone
from pomerium_agent.databroker.cleanup import run_cleanup
from pomerium_agent.databroker.homes import Homes
from pomerium_agent.databroker.kinds import storage_kind
from pomerium_agent.databroker.sqlite.place import directory_of
from pomerium_agent.databroker.storage_health import StorageHealth
from pomerium_agent.databroker.switching import Databroker, Store
from pomerium_agent.errors import Retryable, SettingsError
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.metrics import Metrics
from pomerium_agent.runtime.rerun import rerun_on_change
from pomerium_agent.runtime.supervisor import until_done
from pomerium_agent.runtime.waiting import first_of

log = structlog.get_logger(__name__)

HELD_SECONDS = 10.0  # that writes may wait while the last changes are taken along
LINGER_SECONDS = 10.0  # that calls under way have when another store took over
OLD_SECONDS = 60.0  # that the old store may be out of reach before its records are given up


@asynccontextmanager
async def open_databroker(
    connection: Latest[str | None],
    clock: Clock,
    health: Health,
    environ: Mapping[str, str] | None = None,
    *,
    metrics: Metrics | None = None,
) -> AsyncIterator[Databroker]:
    """Open the store that the bootstrap names (None: memory), keep it clean, and change to another when it says so.

    Yields when there is one; a store out of reach is waited for. Raises SettingsError for one that cannot work. No
    error shows the connection, which may hold a password.
    """
    environ = os.environ if environ is None else environ
    refused: SettingsError | None = None
    async with asyncio.TaskGroup() as group:
        storage = StorageHealth(health)
        homes = Homes(group, clock, storage, environ)
        try:
            name, backend = await _first(connection, homes, clock, health)
        except SettingsError as error:
            refused = error  # told as it is, and not as one of a group
        else:
            homes.use(backend)
            change = _Change(name, Databroker(Store(backend), metrics), homes, clock, storage, environ)
            tasks = [
                group.create_task(run_cleanup(change.databroker, clock, health), name="databroker-cleanup"),
                group.create_task(rerun_on_change(connection, change.to), name="databroker-storage"),
            ]
            try:
                yield change.databroker
            finally:
                storage.terminating()
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
                await homes.close(change.databroker.store.backend)
    if refused is not None:
        raise refused


async def _first(
    connection: Latest[str | None], homes: Homes, clock: Clock, health: Health
) -> tuple[str | None, Backend]:
    async def step() -> tuple[str | None, Backend]:
        name = connection.value
        try:
            return name, await homes.open(name)
        except Retryable as error:
            health.failed(Check.STORAGE, str(error), {"backend": storage_kind(name)})
            raise

    return await until_done("databroker storage", step, clock=clock, backoff=Backoff(cap=10.0))


class _Change:
    """From the store there is to the one that is asked for; until that one has everything, nothing changes."""

    def __init__(
        self,
        name: str | None,
        databroker: Databroker,
        homes: Homes,
        clock: Clock,
        health: StorageHealth,
        environ: Mapping[str, str],
    ) -> None:
        self._homes = homes
        self.databroker = databroker
        self._name = name
        self._clock = clock
        self._health = health
        self._environ = environ

    async def to(self, name: str | None) -> None:
        """Try until it is done, or another one is asked for. Meanwhile the old store goes on serving."""
        kind, before = storage_kind(name), storage_kind(self._name)
        if self._same(name):
            self._health.set_trouble("")
            return
        log.info("changing the databroker's storage", before=before, to=kind)
        backoff = Backoff()
        gone_since: float | None = None  # the old store; a new one that cannot be opened says nothing about it
        while True:
            now = self._clock.monotonic()
            try:
                await self._try(name, without_old=gone_since is not None and now - gone_since > OLD_SECONDS)
            except (Retryable, SettingsError) as error:
                if not isinstance(error, OldStoreGone):
                    gone_since = None
                elif gone_since is None:
                    gone_since = now
                wait = backoff.next()
                log.error(
                    "storage not changed, the old one goes on",
                    before=before,
                    to=kind,
                    reason=str(error),
                    retry_in=round(wait, 2),
                )
                self._health.set_trouble(
                    f"records stay in {before} storage, since the {kind} storage that the control plane asks for "
                    f"cannot take over: {error}"
                )
                await self._clock.sleep(wait)
            else:
                log.info("storage changed", before=before, to=kind)
                return

    def _same(self, name: str | None) -> bool:
        if name == self._name:
            return True
        if name is None or self._name is None or {storage_kind(name), storage_kind(self._name)} != {"file"}:
            return False
        try:
            return directory_of(name, self._environ) == directory_of(self._name, self._environ)
        except SettingsError:
            return False

    async def _try(self, name: str | None, *, without_old: bool) -> None:
        backend = await self._homes.open(name)
        old = self.databroker.store
        try:
            try:
                await self._fill(backend, name)
            except OldStoreGone as error:
                if not without_old:
                    raise
                log.error("the old storage cannot be read, its records are left behind", reason=str(error))
                self._take_over(backend, name)
            await first_of(old.idle(), self._clock.sleep(LINGER_SECONDS))
        finally:
            await self._homes.close(backend if self.databroker.store is old else old.backend)

    async def _fill(self, backend: Backend, name: str | None) -> None:
        old = self.databroker.store
        carrier = Carrier(old, backend, self._clock)
        another = await carrier.needed()
        if another:
            await carrier.copy()
        try:
            async with asyncio.timeout(HELD_SECONDS), old.held():
                if another:
                    await carrier.catch_up()
                self._take_over(backend, name)
        except TimeoutError:
            raise OldStoreGone(
                f"the last changes could not be taken along: they did not come to an end in {HELD_SECONDS:g} s"
            ) from None

    def _take_over(self, backend: Backend, name: str | None) -> None:
        self.databroker.replace(Store(backend))
        self._homes.use(backend)
        self._name = name
