"""Opens the stores that connections name, and closes them: those in a database live in a task of their own."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.kinds import check_storage, storage_kind
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.databroker.remote import RemoteBackend
from pomerium_agent.databroker.sqlite import open_sqlite
from pomerium_agent.databroker.storage_health import StorageHealth, StoreHealth
from pomerium_agent.errors import SettingsError
from pomerium_agent.runtime.clock import Clock


@dataclass(frozen=True, slots=True)
class _Home:
    """What belongs to one open store; a database lives in `task` until `stop` is set."""

    health: StoreHealth
    stop: asyncio.Event | None = None
    task: asyncio.Task[None] | None = None


class Homes:
    """The stores that are open. `group` outlives them all; two are open while one takes over from the other."""

    def __init__(
        self, group: asyncio.TaskGroup, clock: Clock, health: StorageHealth, environ: Mapping[str, str]
    ) -> None:
        self._group = group
        self._clock = clock
        self._health = health
        self._environ = environ
        self._homes: dict[int, _Home] = {}

    async def open(self, connection: str | None) -> Backend:
        """Raises SettingsError for what cannot work, and DatabrokerUnavailable for a file that cannot be had now.

        A database that is not there yet is open all the same, and everything raises DatabrokerUnavailable until it is.
        """
        check_storage(connection, self._environ)
        kind = storage_kind(connection)
        backend: Backend
        match kind:
            case "file":
                home = _Home(self._health.of_store(kind))
                backend = await open_sqlite(connection or "", self._clock, home.health, self._environ)
            case "postgres":
                backend, home = await self._open_database(connection or "")
            case _:
                home = _Home(self._health.of_store(kind))
                backend = MemoryBackend(self._clock)
        self._homes[id(backend)] = home
        return backend

    def borrow(self, connection: str | None, socket: Path) -> Backend:
        """The records of another agent on this machine, which has them in a store of this kind."""
        backend = RemoteBackend(socket)
        self._homes[id(backend)] = _Home(self._health.of_store(storage_kind(connection)))
        return backend

    def use(self, backend: Backend) -> None:
        """It is the one that serves from now on, so its health is that of the storage."""
        self._health.use(self._homes[id(backend)].health)

    async def close(self, backend: Backend) -> None:
        """Whoever still reads it is told that it is closed."""
        home = self._homes.pop(id(backend))
        if home.stop is None or home.task is None:
            await backend.close()
            return
        home.stop.set()
        await asyncio.wait((home.task,))

    async def _open_database(self, connection: str) -> tuple[Backend, _Home]:
        opened: asyncio.Future[Backend] = asyncio.get_running_loop().create_future()
        stop = asyncio.Event()
        health = self._health.of_store("postgres", "the database has not answered yet")
        living = self._live(connection, health, opened, stop)
        task = self._group.create_task(living, name="databroker-database")
        try:
            return await opened, _Home(health, stop, task)
        except asyncio.CancelledError:
            task.cancel()  # it may be waiting for a database that does not answer
            await asyncio.wait((task,))
            raise

    async def _live(
        self, connection: str, health: StoreHealth, opened: asyncio.Future[Backend], stop: asyncio.Event
    ) -> None:
        from pomerium_agent.databroker.postgres import open_postgres  # asyncpg takes its time, and few need it

        try:
            async with open_postgres(connection, self._clock, health) as backend:
                if not opened.cancelled():
                    opened.set_result(backend)
                await stop.wait()
        except SettingsError as error:
            if not opened.done():
                opened.set_exception(error)
