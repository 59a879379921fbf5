"""The service that keeps a store from growing without end: old changes and expired records, once a minute."""

from typing import NoReturn

import structlog

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.errors import Retryable
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health

log = structlog.get_logger(__name__)

CLEANUP_EVERY = 60.0  # seconds (databroker 7)


async def run_cleanup(backend: Backend, clock: Clock, health: Health) -> NoReturn:
    """Clean up for as long as the backend is open; a store out of reach is tried again a minute later (D-17)."""
    while True:
        await clock.sleep(CLEANUP_EVERY)
        try:
            await backend.clean_up()
        except Retryable as error:
            log.warning("clean-up failed", reason=str(error))
            health.failed(Check.STORAGE_CLEANUP, str(error))
        else:
            health.running(Check.STORAGE_CLEANUP)
