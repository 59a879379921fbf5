"""Who we are and where records live: from the file at once, then from the API for ever (zero link 8)."""

import os

import structlog

from pomerium_agent.databroker.kinds import check_storage
from pomerium_agent.errors import ConfigRejected, Retryable, SettingsError
from pomerium_agent.runtime.backoff import Backoff, loop
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.zero.answers import BootstrapConfig
from pomerium_agent.zero.api import ClusterApi
from pomerium_agent.zero.bootstrap_file import BootstrapFile
from pomerium_agent.zero.nudge import Schedule
from pomerium_agent.zero.writeback import Writeback

log = structlog.get_logger(__name__)


class BootstrapLoop:
    """Feeds `current`, first from the file, then from the API (Z-22). The value changes only when it differs (Z-24)."""

    def __init__(
        self, api: ClusterApi, schedule: Schedule, writeback: Writeback | None, *, health: Health, clock: Clock
    ) -> None:
        self._api = api
        self._schedule = schedule
        self._writeback = writeback
        self._health = health
        self._clock = clock
        self.current: Latest[BootstrapConfig | None] = Latest(None)

    async def load(self, file: BootstrapFile) -> None:
        """Take what the file holds; a file that cannot be used is logged, and the API will tell (Z-7).

        That goes for a store which cannot be opened here, too: the settings may have been mended since.
        """
        try:
            found = await file.load()
            check_storage(found.storage_connection if found else None, os.environ)
        except (ConfigRejected, SettingsError) as error:
            log.error("bootstrap file unusable", path=str(file.path), reason=str(error))
            return
        if found is None:
            log.info("no bootstrap file yet", path=str(file.path))
            return
        log.info("bootstrap loaded from file", path=str(file.path))
        self._apply(found)

    async def reseal(self, key: bytes) -> None:
        """Another cluster token: what is known is kept under its key, at once and without asking anybody."""
        if self._writeback is not None:
            self._writeback.rekey(key)
        if self.current.value is not None:
            await self._save(self.current.value)

    async def run(self, backoff: Backoff | None = None) -> None:
        """Fetch at once, then whenever the schedule says so; raises Refused, retries everything else."""
        backoff = backoff or loop()
        while True:
            await self._fetch_until_answered(backoff)
            await self._schedule.due()

    async def _fetch_until_answered(self, backoff: Backoff) -> None:
        """A nudge during the wait between two tries means: try at once, and start the waits anew."""
        backoff.reset()
        while True:
            self._schedule.begin()
            try:
                fetched = await self._api.bootstrap()
            except Retryable as error:
                wait = backoff.next(at_least=error.retry_after)
                log.warning("bootstrap not fetched", reason=str(error), retry_in=round(wait, 2))
                if await self._schedule.due_within(wait):
                    backoff.reset()
            else:
                self._apply(fetched)
                await self._save(fetched)
                return

    def _apply(self, bootstrap: BootstrapConfig) -> None:
        before = self.current.value
        if bootstrap == before:
            return
        if before is None:
            log.info("bootstrapped", organization=bootstrap.organization_id, cluster=bootstrap.cluster_id)
        else:
            log.info("bootstrap changed", organization=bootstrap.organization_id, cluster=bootstrap.cluster_id)
        self.current.set(bootstrap)

    async def _save(self, bootstrap: BootstrapConfig) -> None:
        """Persist it; a failure is reported and tried again after the next fetch (Z-26)."""
        if self._writeback is None:
            return
        try:
            await self._writeback.save(bootstrap)
        except Retryable as error:
            self._health.failed(Check.ZERO_BOOTSTRAP_SAVE, str(error))
        else:
            self._health.running(Check.ZERO_BOOTSTRAP_SAVE)
