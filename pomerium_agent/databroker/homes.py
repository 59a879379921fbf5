"""Opens the stores that connections name, and closes them: those in a database live in a task of their own."""

import asyncio
from collections.abc import Mapping

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.kinds import check_storage, storage_kind
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.databroker.sqlite import open_sqlite
from pomerium_agent.errors import SettingsError
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Health


class Homes:
    """The stores that are open. `group` outlives them all; two are open while one takes over from the other."""

    def __init__(self, group: asyncio.TaskGroup, clock: Clock, health: Health, environ: Mapping[str, str]) -> None:
        self._group = group
        self._clock = clock
        self._health = health
        self._environ = environ
        self._databases: dict[int, tuple[asyncio.Event, asyncio.Task[None]]] = {}

    async def open(self, connection: str | None) -> Backend:
        """Raises SettingsError for what cannot work, and DatabrokerUnavailable for a file that cannot be had now.

        A database that is not there yet is open all the same, and everything raises DatabrokerUnavailable until it is.
        """
        check_storage(connection, self._environ)
        match storage_kind(connection):
            case "file":
                return await open_sqlite(connection or "", self._clock, self._health, self._environ)
            case "postgres":
                return await self._open_database(connection or "")
            case _:
                return MemoryBackend(self._clock)

    async def close(self, backend: Backend) -> None:
        """Whoever still reads it is told that it is closed."""
        living = self._databases.pop(id(backend), None)
        if living is None:
            await backend.close()
            return
        stop, task = living
        stop.set()
        await asyncio.wait((task,))

    async def _open_database(self, connection: str) -> Backend:
        opened: asyncio.Future[Backend] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()
        task = self._group.create_task(self._live(connection, opened, stop), name="databroker-database")
        try:
            backend = await opened
        except asyncio.CancelledError:
            stop.set()
            raise
        self._databases[id(backend)] = stop, task
        return backend

    async def _live(self, connection: str, opened: asyncio.Future[Backend], stop: asyncio.Event) -> None:
        from pomerium_agent.databroker.postgres import open_postgres  # asyncpg takes its time, and few need it

        try:
            async with open_postgres(connection, self._clock, self._health) as backend:
                if not opened.cancelled():
                    opened.set_result(backend)
                await stop.wait()
        except SettingsError as error:
            if not opened.done():
                opened.set_exception(error)
