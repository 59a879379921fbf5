"""Which store the records of this replica live in, and its lifetime."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.cleanup import run_cleanup
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.errors import SettingsError
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health

StorageKind = Literal["memory", "file", "postgres"]


def storage_kind(connection: str | None) -> StorageKind:
    """What the bootstrap's storage connection asks for (zero link 8.3, Z-23). Pure."""
    if connection is None:
        return "memory"
    return "file" if connection.startswith("file://") else "postgres"


def check_storage(connection: str | None) -> None:
    """Raise SettingsError for a store that cannot be opened here, whatever happens; the connection is not shown."""
    kind = storage_kind(connection)
    if kind == "file":
        raise SettingsError(
            f"databroker storage: the control plane asks for {kind!r} storage, which this version does not have yet; "
            "remove the databroker storage connection from the cluster's settings to keep records in memory"
        )
    if kind == "postgres" and connection is not None:
        from pomerium_agent.databroker.postgres import parse_connection  # its driver is not needed without a database

        parse_connection(connection)


@asynccontextmanager
async def open_databroker(storage: str | None, clock: Clock, health: Health) -> AsyncIterator[Backend]:
    """Open the store that the bootstrap names (None: memory) and keep it clean; yields when it is ready.

    Raises SettingsError for a store that cannot be opened here. The connection itself may hold a password, so no
    error shows it. A database that is not there yet is waited for by whoever asks (see `open_postgres`).
    """
    async with _open(storage, clock, health) as backend, asyncio.TaskGroup() as group:
        cleaning = group.create_task(run_cleanup(backend, clock, health))
        try:
            yield backend
        finally:
            health.terminating(Check.STORAGE)
            cleaning.cancel()
            await backend.close()


@asynccontextmanager
async def _open(storage: str | None, clock: Clock, health: Health) -> AsyncIterator[Backend]:
    check_storage(storage)
    if storage is not None and storage_kind(storage) == "postgres":
        from pomerium_agent.databroker.postgres import open_postgres

        async with open_postgres(storage, clock, health) as database:
            yield database
    else:
        health.running(Check.STORAGE, backend=storage_kind(storage))
        yield MemoryBackend(clock)
