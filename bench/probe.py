"""Asks one host again and again over one kept connection, and sees when its answer changes."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.sizes import MARK

EVERY = 0.005  # seconds between two requests: the resolution of what is seen
PATIENCE = 180.0


class Probe:
    """`answers` counts the requests, `failures` those that got anything but 200."""

    def __init__(self, port: int, host: str) -> None:
        self._port = port
        self._host = host
        self._request = f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
        self._mark: str | None = None
        self._seen = asyncio.Condition()
        self.answers = 0
        self.failures = 0

    async def until(self, mark: str) -> float:
        """When the route first answered with `mark`, by time.time()."""
        async with asyncio.timeout(PATIENCE), self._seen:
            await self._seen.wait_for(lambda: self._mark == mark)
            return time.time()

    async def run(self) -> None:
        """Ask until cancelled; a connection that breaks, or is not taken yet, is made anew."""
        while True:
            try:
                await self._ask()
            except (OSError, asyncio.IncompleteReadError):
                if self._mark is not None:
                    self.failures += 1
                await asyncio.sleep(EVERY)

    async def _ask(self) -> None:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=trusting(), server_hostname=self._host
        )
        try:
            while True:
                writer.write(self._request)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                headers = dict(line.partition(": ")[::2] for line in head.split("\r\n"))
                await reader.readexactly(int(headers.get("content-length", "0")))
                await self._answered(head.startswith("http/1.1 200"), headers.get(MARK, ""))
                await asyncio.sleep(EVERY)
        finally:
            writer.close()

    async def _answered(self, fine: bool, mark: str) -> None:
        self.answers += 1
        if not fine:
            self.failures += self._mark is not None
            return
        if mark != self._mark:
            async with self._seen:
                self._mark = mark
                self._seen.notify_all()


def trusting() -> ssl.SSLContext:
    """A client that asks no questions: the certificate is the console's own."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@asynccontextmanager
async def probing(port: int, host: str) -> AsyncIterator[Probe]:
    """A probe that runs until the block ends."""
    probe = Probe(port, host)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(probe.run())
        try:
            yield probe
        finally:
            task.cancel()
