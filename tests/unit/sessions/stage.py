"""A databroker in memory, a clock that tests move, and a store that can be cut off."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from pomerium_agent.databroker.backend import ServerInfo, Written
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.errors import DatabrokerUnavailable
from pomerium_agent.records import Cursor, Record
from pomerium_agent.runtime.health import Health
from pomerium_agent.sessions.handle import Handle
from pomerium_agent.sessions.live import Sessions, open_sessions
from tests.fakes.clock import ManualClock, settle


class CuttableBackend(MemoryBackend):
    """A store whose line can be cut, whose answers can be held up, and whose change log can lag behind."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.gets: list[tuple[str, str]] = []
        self._cut = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    def cut(self) -> None:
        """Nothing answers any more; what was followed breaks off."""
        self._cut.set()

    def mend(self) -> None:
        self._cut = asyncio.Event()

    def hold(self) -> None:
        """Reads and patches hang."""
        self._open.clear()

    def release_reads(self) -> None:
        self._open.set()

    def lag(self) -> None:
        """The change log is silent."""
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    async def server_info(self) -> ServerInfo:
        self._check()
        return await super().server_info()

    async def get(self, type: str, id: str) -> Record:
        self.gets.append((type, id))
        await self._open.wait()
        self._check()
        return await super().get(type, id)

    async def patch(self, records: Sequence[Record], fields: Sequence[str]) -> Written:
        await self._open.wait()
        self._check()
        return await super().patch(records, fields)

    async def latest(self, type: str = "") -> tuple[Cursor, tuple[Record, ...]]:
        self._check()
        return await super().latest(type)

    async def changes(self, after: Cursor, type: str = "", *, wait: bool = True) -> AsyncGenerator[Record, None]:
        changes = super().changes(after, type, wait=wait)
        try:
            while True:
                self._check()
                following, cut = asyncio.ensure_future(anext(changes)), asyncio.ensure_future(self._cut.wait())
                try:
                    await asyncio.wait([following, cut], return_when=asyncio.FIRST_COMPLETED)
                    self._check()
                    await self._flowing.wait()
                    yield following.result()
                except StopAsyncIteration:
                    return
                finally:
                    following.cancel()
                    cut.cancel()
                    await asyncio.gather(following, cut, return_exceptions=True)
        finally:
            await changes.aclose()

    def _check(self) -> None:
        if self._cut.is_set():
            raise DatabrokerUnavailable("the line is cut")


class Stage:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.backend = CuttableBackend(self.clock)
        self.health = Health()

    @asynccontextmanager
    async def sessions(self) -> AsyncIterator[Sessions]:
        """A live copy that has taken in everything so far."""
        async with open_sessions(self.backend, self.clock, self.health) as sessions:
            await settle(200)
            yield sessions

    async def put(self, *records: Record) -> Written:
        """Write, and let the copy take it in."""
        written = await self.backend.put(records)
        await settle(60)
        return written


def handle(id: str, written: Written | None = None) -> Handle:
    """A handle as a login makes it: its hint is what the last write returned."""
    if written is None:
        return Handle(id=id)
    return Handle(
        id=id,
        databroker_server_version=written.server_version,
        databroker_record_version=written.records[-1].version,
    )
