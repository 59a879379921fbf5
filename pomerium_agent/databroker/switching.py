"""One databroker for the whole life of the agent, whichever store is behind it at the moment (Z-25).

    Databroker ──► Store ──► MemoryBackend, SqliteBackend, …
                   one life of one store: it ends when another one takes over

Who only reads and writes uses `Databroker` and need not know. Who does a job under a lease must not go on with it in
another data set, where somebody else may have that lease: such a job works with the one `Store`, which refuses
everything once it was replaced, and begins anew with the next (`Databroker.stores`).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TypeVar

from pomerium_agent.databroker.backend import Backend, Found, Options, ServerInfo, Written
from pomerium_agent.errors import CursorExpired, DatabrokerUnavailable
from pomerium_agent.records import Cursor, Record
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.metrics import Metrics

T = TypeVar("T")


class Moved(DatabrokerUnavailable):
    """The records live in another store by now; the call was not begun."""


class Store:
    """A Backend that can be told to hold its writes, and that another one takes over."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._calls = 0
        self._writes = 0
        self._ended = asyncio.Event()  # set again whenever a call ends
        self._open = asyncio.Event()
        self._open.set()
        self._moved = False
        self._leases: set[tuple[str, str]] = set()  # taken here and not given back: name and holder
        self._waiting: set[asyncio.Timeout] = set()  # readers of changes that wait for the next one

    # --- what the databroker does with it ------------------------------------------------------

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """No write begins in this block, and those begun before it have ended."""
        self._open.clear()
        try:
            await self._until(lambda: self._writes == 0)
            yield
        finally:
            self._open.set()

    def move(self) -> None:
        """Refuse everything from now on, and end everybody who waits for changes."""
        self._moved = True
        for waiting in self._waiting:
            waiting.reschedule(asyncio.get_running_loop().time())

    async def idle(self) -> None:
        """Return once no call is under way, and the jobs that ran under a lease in here have ended."""
        await self._until(lambda: self._calls == 0 and not self._leases)

    @property
    def backend(self) -> Backend:
        """What is behind it, for whoever opened it."""
        return self._backend

    async def close(self) -> None:
        await self._backend.close()

    @property
    def leases(self) -> frozenset[str]:
        """The names of those that were taken here and not given back."""
        return frozenset(name for name, _ in self._leases)

    # --- Backend -------------------------------------------------------------------------------

    async def server_info(self) -> ServerInfo:
        with self._calling():
            return await self._backend.server_info()

    async def get(self, type: str, id: str) -> Record:
        with self._calling():
            return await self._backend.get(type, id)

    async def put(self, records: Sequence[Record]) -> Written:
        async with self._writing():
            return await self._backend.put(records)

    async def patch(self, records: Sequence[Record], fields: Sequence[str]) -> Written:
        async with self._writing():
            return await self._backend.patch(records, fields)

    async def query(
        self, type: str, *, text: str = "", filter: Mapping[str, object] | None = None, offset: int = 0, limit: int
    ) -> Found:
        with self._calling():
            return await self._backend.query(type, text=text, filter=filter, offset=offset, limit=limit)

    async def list_types(self) -> tuple[str, ...]:
        with self._calling():
            return await self._backend.list_types()

    async def get_options(self, type: str) -> Options | None:
        with self._calling():
            return await self._backend.get_options(type)

    async def set_options(self, type: str, options: Options) -> None:
        async with self._writing():
            await self._backend.set_options(type, options)

    async def clear(self) -> tuple[int, int]:
        async with self._writing():
            return await self._backend.clear()

    async def lease(self, name: str, holder: str, ttl: timedelta) -> bool:
        async with self._writing():
            taken = await self._backend.lease(name, holder, ttl)
            if taken:
                self._leases.add((name, holder))
            else:
                self._leases.discard((name, holder))
            return taken

    async def release(self, name: str, holder: str) -> None:
        """Also when another store took over: somebody may wait for the lease in here."""
        try:
            await self._backend.release(name, holder)
        finally:
            self._leases.discard((name, holder))
            self._ended.set()

    async def latest(self, type: str = "") -> tuple[Cursor, tuple[Record, ...]]:
        with self._calling():
            return await self._backend.latest(type)

    async def changes(self, after: Cursor, type: str = "", *, wait: bool = True) -> AsyncGenerator[Record, None]:
        async with aclosing(self._backend.changes(after, type, wait=wait)) as changes:
            while True:
                try:
                    # A timeout that only `move` brings about: it reaches a reader however long it waits.
                    async with asyncio.timeout(None) as waiting:
                        self._check()
                        self._waiting.add(waiting)
                        try:
                            change = await anext(changes)
                        finally:
                            self._waiting.discard(waiting)
                except TimeoutError:
                    raise _moved() from None
                except StopAsyncIteration:
                    return
                yield change

    async def checkpoint(self) -> Cursor:
        with self._calling():
            return await self._backend.checkpoint()

    async def set_checkpoint(self, checkpoint: Cursor) -> None:
        async with self._writing():
            await self._backend.set_checkpoint(checkpoint)

    async def clean_up(self) -> None:
        if not self._open.is_set():  # there is a next time
            return
        with self._calling():  # nothing waits for it: what it removes now, it removes as well in another store
            await self._backend.clean_up()

    def _check(self) -> None:
        if self._moved:
            raise _moved()

    @contextmanager
    def _calling(self) -> Iterator[None]:
        self._check()
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1
            self._ended.set()

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        await self._open.wait()
        with self._calling():
            self._writes += 1
            try:
                yield
            finally:
                self._writes -= 1

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            self._ended.clear()
            await self._ended.wait()


def _moved() -> Moved:
    return Moved("the records moved to another store")


class Databroker:
    """A Backend whose store may be replaced: readers of changes then start over, writers notice nothing."""

    def __init__(self, first: Store, metrics: Metrics | None = None) -> None:
        self.store = first
        self._metrics = metrics or Metrics()
        self.stores: Latest[Backend] = Latest(first)

    def replace(self, store: Store) -> Store:
        """Let another store take over, from one moment to the next; returns the one before."""
        before, self.store = self.store, store
        before.move()
        self.stores.set(store)
        return before

    async def server_info(self) -> ServerInfo:
        return await self._ask("server_info", lambda store: store.server_info())

    async def get(self, type: str, id: str) -> Record:
        return await self._ask("get", lambda store: store.get(type, id))

    async def put(self, records: Sequence[Record]) -> Written:
        return await self._ask("put", lambda store: store.put(records))

    async def patch(self, records: Sequence[Record], fields: Sequence[str]) -> Written:
        return await self._ask("patch", lambda store: store.patch(records, fields))

    async def query(
        self, type: str, *, text: str = "", filter: Mapping[str, object] | None = None, offset: int = 0, limit: int
    ) -> Found:
        return await self._ask(
            "query", lambda store: store.query(type, text=text, filter=filter, offset=offset, limit=limit)
        )

    async def list_types(self) -> tuple[str, ...]:
        return await self._ask("list_types", lambda store: store.list_types())

    async def get_options(self, type: str) -> Options | None:
        return await self._ask("get_options", lambda store: store.get_options(type))

    async def set_options(self, type: str, options: Options) -> None:
        await self._ask("set_options", lambda store: store.set_options(type, options))

    async def clear(self) -> tuple[int, int]:
        return await self._ask("clear", lambda store: store.clear())

    async def lease(self, name: str, holder: str, ttl: timedelta) -> bool:
        return await self._ask("lease", lambda store: store.lease(name, holder, ttl))

    async def release(self, name: str, holder: str) -> None:
        await self._ask("release", lambda store: store.release(name, holder))

    async def latest(self, type: str = "") -> tuple[Cursor, tuple[Record, ...]]:
        return await self._ask("latest", lambda store: store.latest(type))

    async def changes(self, after: Cursor, type: str = "", *, wait: bool = True) -> AsyncGenerator[Record, None]:
        store = self.store
        try:
            async with aclosing(store.changes(after, type, wait=wait)) as changes:
                async for change in changes:
                    yield change
        except Moved as moved:
            raise CursorExpired(str(moved)) from moved

    async def checkpoint(self) -> Cursor:
        return await self._ask("checkpoint", lambda store: store.checkpoint())

    async def set_checkpoint(self, checkpoint: Cursor) -> None:
        await self._ask("set_checkpoint", lambda store: store.set_checkpoint(checkpoint))

    async def clean_up(self) -> None:
        await self._ask("clean_up", lambda store: store.clean_up())

    async def close(self) -> None:
        await self.store.close()

    @property
    def leases(self) -> frozenset[str]:
        """The names of the leases that were taken here, as far as is known, and not given back."""
        return self.store.leases

    async def _ask(self, operation: str, call: Callable[[Store], Awaitable[T]]) -> T:
        with self._metrics.databroker_seconds.labels(operation).time():
            try:
                return await self._ask_whichever(call)
            except DatabrokerUnavailable:
                self._metrics.databroker_errors.labels(operation).inc()
                raise

    async def _ask_whichever(self, call: Callable[[Store], Awaitable[T]]) -> T:
        while True:
            store = self.store
            try:
                return await call(store)
            except Moved:
                if store is self.store:
                    raise
