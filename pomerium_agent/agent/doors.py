"""What only the agent in charge has open: an agent that comes to replace another gets ready behind closed doors."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path

from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.waiting import until_is


class Doors:
    """Closed until `open`; then whatever hangs here opens, and what is hung later opens at once."""

    def __init__(self, *, opened: bool) -> None:
        self.opened = Latest(opened)
        self._closed = Latest(0)  # how many hang here and have not opened yet

    async def open(self) -> None:
        """Open all; returns when they are."""
        self.opened.set(True)
        await until_is(self._closed, 0)

    @asynccontextmanager
    async def hang(self, door: AbstractAsyncContextManager[object]) -> AsyncIterator[None]:
        """Enter `door` when the doors open, and leave it with this block."""
        if self.opened.value:
            async with door:
                yield
            return
        self._closed.set(self._closed.value + 1)
        ajar, over = asyncio.Event(), asyncio.Event()

        async def open_later() -> None:
            await until_is(self.opened, True)
            async with door:
                self._closed.set(self._closed.value - 1)
                ajar.set()
                await over.wait()

        try:
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(open_later(), name="door")
                yield
                over.set()
                if not ajar.is_set():
                    waiting.cancel()
        finally:
            if not ajar.is_set():
                self._closed.set(self._closed.value - 1)


def own_name(path: Path) -> Path:
    """Where this process has its own socket, for which `path` is the name while it is in charge."""
    return path.with_name(f"{path.stem}-{os.getpid()}{path.suffix}")


@asynccontextmanager
async def named(path: Path, again: Latest[int]) -> AsyncIterator[None]:
    """Give our own socket the name that everybody knows, and once more whenever `again` grows.

    From one moment to the next, so that nobody finds no socket there. At the end the name goes, if it is still ours.
    """

    async def keep() -> None:
        async with aclosing(again.follow()) as times:
            async for _ in times:
                await asyncio.to_thread(_link, path)

    await asyncio.to_thread(_link, path)
    try:
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(keep(), name="socket-name")
            yield
            keeping.cancel()
    finally:
        await asyncio.to_thread(_unlink_own, path)


def _link(path: Path) -> None:
    temporary = path.with_name(f"{path.stem}-{os.getpid()}.new")
    temporary.unlink(missing_ok=True)
    temporary.hardlink_to(own_name(path))
    temporary.replace(path)
    temporary.unlink(missing_ok=True)  # renaming one name of a file to another of its names does nothing


def _unlink_own(path: Path) -> None:
    try:
        if path.samefile(own_name(path)):
            path.unlink()
    except FileNotFoundError:
        return
