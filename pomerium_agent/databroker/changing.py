"""The change from one store of records to another while all goes on (Z-25), also from another agent's store to ours."""

import asyncio
from collections.abc import Mapping

import structlog

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.carry import Carrier, OldStoreGone
from pomerium_agent.databroker.handover import HandOver
from pomerium_agent.databroker.homes import Homes
from pomerium_agent.databroker.kinds import storage_kind
from pomerium_agent.databroker.sqlite.place import directory_of
from pomerium_agent.databroker.storage_health import StorageHealth
from pomerium_agent.databroker.switching import Databroker, Store
from pomerium_agent.errors import Retryable, SettingsError
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.waiting import first_of, until_is

log = structlog.get_logger(__name__)

HELD_SECONDS = 10.0  # that writes may wait while the last changes are taken along
LINGER_SECONDS = 10.0  # that calls under way have when another store took over
OLD_SECONDS = 60.0  # that the old store may be out of reach before its records are given up


class Change:
    """From the store there is to the one that is asked for; until that one has everything, nothing changes."""

    def __init__(
        self,
        name: str | None,
        databroker: Databroker,
        homes: Homes,
        clock: Clock,
        health: StorageHealth,
        environ: Mapping[str, str],
        handover: HandOver,
        *,
        inherited: bool,
    ) -> None:
        self._homes = homes
        self.databroker = databroker
        self.name = name
        self._clock = clock
        self._health = health
        self._environ = environ
        self._handover = handover
        self._inherited = inherited  # the records are still with the agent before us

    async def close(self) -> None:
        """Let go of what is open."""
        await self._homes.close(self.databroker.store.backend)

    async def to(self, name: str | None) -> None:
        """Try until it is done, or another one is asked for. Meanwhile the old store goes on serving."""
        kind, before = storage_kind(name), storage_kind(self.name)
        if self._same(name):
            self._health.set_trouble("")
            return
        if self._inherited:
            log.info("taking over the records of the agent before us", to=kind)
        else:
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
        if self._inherited:
            return False
        if name == self.name:
            return True
        if name is None or self.name is None or {storage_kind(name), storage_kind(self.name)} != {"file"}:
            return False
        try:
            return directory_of(name, self._environ) == directory_of(self.name, self._environ)
        except SettingsError:
            return False

    async def _try(self, name: str | None, *, without_old: bool) -> None:
        if self._inherited and storage_kind(name) == "file":  # which has one owner at a time
            self._handover.copied.set(True)
            await until_is(self._handover.due, True)
        backend = await self._homes.open(name)
        old = self.databroker.store
        try:
            try:
                await self._fill(backend, name)
            except OldStoreGone as error:
                if not (without_old or (self._inherited and self._handover.alone.value)):
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
        if self._inherited:
            self._handover.copied.set(True)
            await until_is(self._handover.due, True)
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
        self.name, self._inherited = name, False
        self._handover.settled.set(True)
