"""A cell that holds the newest value of something; readers may skip to it, and never miss the last one."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """State passed between rooms. One writer calls `set`; any number of readers `follow` or read `value`.

    A reader that is slow sees fewer values, never an old one last. Events, of which none may be lost, do
    not belong here but in a queue.
    """

    def __init__(self, value: T) -> None:
        self._value = value
        self._version = 0
        self._changed = asyncio.Event()

    @property
    def value(self) -> T:
        """The newest value."""
        return self._value

    def set(self, value: T) -> None:
        """Replace the value and wake every reader."""
        self._value = value
        self._version += 1
        waiting, self._changed = self._changed, asyncio.Event()
        waiting.set()

    async def follow(self) -> AsyncGenerator[T, None]:
        """Yield the present value at once, then each newest value after a change; never ends by itself."""
        while True:
            seen, changed = self._version, self._changed
            yield self._value
            if seen == self._version:
                await changed.wait()
