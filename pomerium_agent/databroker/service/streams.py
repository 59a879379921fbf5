"""The streams that are open on one server: how many, how patient we are with who does not read, and their end."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from pomerium_agent.databroker.service.calls import CallRefused, Context, Status

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What streams may cost one server."""

    streams: int = 1000
    streams_of_peer: int = 100
    stalled_after: float = 60.0  # seconds that one message may wait for its reader


USUAL = Limits()


class Streams:
    """Owned by one server. One message at a time is under way, so a reader that is slow costs no memory."""

    def __init__(self, limits: Limits = USUAL) -> None:
        self._limits = limits
        self._open: dict[asyncio.Timeout, str] = {}
        self._of_peer: Counter[str] = Counter()
        self._closed = False

    @property
    def patience(self) -> float:
        """How many seconds anything may wait for its reader."""
        return self._limits.stalled_after

    @asynccontextmanager
    async def place(self, context: Context, seconds: float | None = None) -> AsyncIterator[None]:
        """Room for one more stream, for at most `seconds`. Raises CallRefused: when there is none, and at the end."""
        peer = peer_of(context)
        if self._closed:
            raise CallRefused(Status.UNAVAILABLE, "the databroker is stopping")
        if len(self._open) >= self._limits.streams or self._of_peer[peer] >= self._limits.streams_of_peer:
            raise CallRefused(Status.RESOURCE_EXHAUSTED, "too many streams are open; close some, or share them")
        limit = asyncio.timeout(seconds)
        self._of_peer[peer] += 1
        try:
            async with limit:
                self._open[limit] = peer
                yield
        except TimeoutError:
            if self._closed:
                raise CallRefused(Status.UNAVAILABLE, "the databroker is stopping") from None
            if limit.expired():
                raise CallRefused(Status.DEADLINE_EXCEEDED, "the stream was open for long enough") from None
            raise
        finally:
            self._open.pop(limit, None)
            self._of_peer[peer] -= 1
            if not self._of_peer[peer]:
                del self._of_peer[peer]

    async def pump(self, messages: AsyncGenerator[Any, None], context: Context) -> None:
        """Send what comes, as fast as it is read. Raises CallRefused for a reader that stopped reading."""
        async with aclosing(messages):
            async for message in messages:
                await self._send(message, context)

    async def _send(self, message: object, context: Context) -> None:
        patience = asyncio.timeout(self._limits.stalled_after)
        try:
            async with patience:
                await context.write(message)
        except TimeoutError:
            if not patience.expired():
                raise
            log.warning("databroker stream cut, since nobody reads it", peer=peer_of(context))
            raise CallRefused(
                Status.RESOURCE_EXHAUSTED,
                f"the stream was not read for {self._limits.stalled_after:g} seconds; go on from the last that came",
            ) from None

    def close(self) -> None:
        """End all of them, so that their readers come again: not CANCELLED, which some take for their own doing."""
        self._closed = True
        now = asyncio.get_running_loop().time()
        for limit in self._open:
            limit.reschedule(now)


def peer_of(context: Context) -> str:
    """The machine that calls, without the port, or the unix socket as a whole."""
    peer = context.peer()
    return peer.rpartition(":")[0] if peer.startswith("ip") else "unix"
