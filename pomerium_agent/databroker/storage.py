"""Which store the records of this replica live in, its lifetime, and the change to another one while all goes on."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Literal

import structlog

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.carry import Carrier, OldStoreGone
from pomerium_agent.databroker.cleanup import run_cleanup
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.databroker.sqlite import open_sqlite
from pomerium_agent.databroker.sqlite.place import directory_of
from pomerium_agent.databroker.switching import Databroker, Store
from pomerium_agent.errors import Retryable, SettingsError
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.rerun import rerun_on_change
from pomerium_agent.runtime.supervisor import until_done
from pomerium_agent.runtime.waiting import first_of

log = structlog.get_logger(__name__)

StorageKind = Literal["memory", "file", "postgres"]
HELD_SECONDS = 10.0  # that writes may wait while the last changes are taken along
LINGER_SECONDS = 10.0  # that calls under way have when another store took over
OLD_SECONDS = 60.0  # that the old store may be out of reach before its records are given up


def storage_kind(connection: str | None) -> StorageKind:
    """What the bootstrap's storage connection asks for (zero link 8.3, Z-23). Pure."""
    if connection is None:
        return "memory"
    return "file" if connection.startswith("file://") else "postgres"


def check_storage(connection: str | None) -> None:
    """Raise SettingsError for what cannot work anywhere; the connection is not shown, as it may hold a password."""
    kind = storage_kind(connection)
    if kind == "file":
        directory_of(connection or "", os.environ)
    if kind == "postgres":
        raise SettingsError(
            f"databroker storage: the control plane asks for {kind!r} storage, which this version does not have yet; "
            "remove the databroker storage connection from the cluster's settings to keep records in memory"
        )


@asynccontextmanager
async def open_databroker(
    connection: Latest[str | None], clock: Clock, health: Health, environ: Mapping[str, str] | None = None
) -> AsyncIterator[Databroker]:
    """Open the store that the bootstrap names (None: memory), keep it clean, and change to another when it says so.

    Yields when there is one; a store out of reach is waited for. Raises SettingsError for one that cannot work. No
    error shows the connection, which may hold a password.
    """
    environ = os.environ if environ is None else environ
    name, backend = await _first(connection, clock, health, environ)
    change = _Change(name, Databroker(Store(backend)), clock, health, environ)
    health.running(Check.STORAGE, backend=storage_kind(name))
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(run_cleanup(change.databroker, clock, health), name="databroker-cleanup"),
            group.create_task(rerun_on_change(connection, change.to), name="databroker-storage"),
        ]
        try:
            yield change.databroker
        finally:
            health.terminating(Check.STORAGE)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await change.databroker.close()


async def _first(
    connection: Latest[str | None], clock: Clock, health: Health, environ: Mapping[str, str]
) -> tuple[str | None, Backend]:
    async def step() -> tuple[str | None, Backend]:
        name = connection.value
        try:
            return name, await _open(name, clock, health, environ)
        except Retryable as error:
            health.failed(Check.STORAGE, str(error), {"backend": storage_kind(name)})
            raise

    return await until_done("databroker storage", step, clock=clock, backoff=Backoff(cap=10.0))


async def _open(connection: str | None, clock: Clock, health: Health, environ: Mapping[str, str]) -> Backend:
    check_storage(connection)
    match storage_kind(connection):
        case "file":
            return await open_sqlite(connection or "", clock, health, environ)
        case _:
            return MemoryBackend(clock)


class _Change:
    """From the store there is to the one that is asked for; until that one has everything, nothing changes."""

    def __init__(
        self, name: str | None, databroker: Databroker, clock: Clock, health: Health, environ: Mapping[str, str]
    ) -> None:
        self.databroker = databroker
        self._name = name
        self._clock = clock
        self._health = health
        self._environ = environ

    async def to(self, name: str | None) -> None:
        """Try until it is done, or another one is asked for. Meanwhile the old store goes on serving."""
        kind, before = storage_kind(name), storage_kind(self._name)
        if self._same(name):
            self._health.running(Check.STORAGE, backend=before)
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
                self._health.failed(
                    Check.STORAGE,
                    f"records stay in {before} storage, since the {kind} storage that the control plane asks for "
                    f"cannot take over: {error}",
                    {"backend": before},
                )
                await self._clock.sleep(wait)
            else:
                self._health.running(Check.STORAGE, backend=kind)
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
        backend = await _open(name, self._clock, self._health, self._environ)
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
            await (backend if self.databroker.store is old else old).close()

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
        self._name = name
