"""Which store the records of this replica live in, its lifetime, and the change to another one while all goes on."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.changing import Change
from pomerium_agent.databroker.cleanup import run_cleanup
from pomerium_agent.databroker.handover import HandOver
from pomerium_agent.databroker.homes import Homes
from pomerium_agent.databroker.kinds import storage_kind
from pomerium_agent.databroker.leaving import Leaving
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

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_databroker(
    connection: Latest[str | None],
    clock: Clock,
    health: Health,
    environ: Mapping[str, str] | None = None,
    *,
    metrics: Metrics | None = None,
    handover: HandOver | None = None,
) -> AsyncIterator[Databroker]:
    """Open the store that the bootstrap names (None: memory), keep it clean, and change to another when it says so.

    Yields when there is one; a store out of reach is waited for. Raises SettingsError for one that cannot work. No
    error shows the connection, which may hold a password. With `handover`, the records of an agent's own store go
    from the agent before us to this one, and from this one to the next.
    """
    environ = os.environ if environ is None else environ
    handover = handover or HandOver(successor=Path("/dev/null"))
    refused: SettingsError | None = None
    async with asyncio.TaskGroup() as group:
        storage = StorageHealth(health)
        homes = Homes(group, clock, storage, environ)
        try:
            name, backend, inherited = await _first(connection, homes, clock, health, handover)
        except SettingsError as error:
            refused = error  # told as it is, and not as one of a group
        else:
            homes.use(backend)
            change = Change(
                name, Databroker(Store(backend), metrics), homes, clock, storage, environ, handover, inherited=inherited
            )
            leaving = Leaving(change, homes, handover, clock)
            tasks = [
                group.create_task(leaving.run(), name="databroker-hand-over"),
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
                await change.close()
                await leaving.close()
    if refused is not None:
        raise refused


async def _first(
    connection: Latest[str | None], homes: Homes, clock: Clock, health: Health, handover: HandOver
) -> tuple[str | None, Backend, bool]:
    """The store, and whether it is still that of the agent before us."""
    name = connection.value
    if handover.predecessor is not None and storage_kind(name) != "postgres":
        return name, homes.borrow(name, handover.predecessor), True

    async def step() -> tuple[str | None, Backend]:
        name = connection.value
        try:
            return name, await homes.open(name)
        except Retryable as error:
            health.failed(Check.STORAGE, str(error), {"backend": storage_kind(name)})
            raise

    name, backend = await until_done("databroker storage", step, clock=clock, backoff=Backoff(cap=10.0))
    handover.copied.set(True)
    handover.settled.set(True)
    return name, backend, False
