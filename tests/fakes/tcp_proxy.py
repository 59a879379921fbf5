"""A TCP proxy on loopback that cuts connections: all of them, or one just before or after it said something."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class TcpProxy:
    """Forwards to `target` on loopback. `cut_before` and `cut_after` work once, on the next message that has them."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.cut_before = b""  # the server never hears it
        self.cut_after = b""  # the server hears it, and its answer gets lost
        self.cuts = 0
        self.server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            writer.transport.abort()
        self.cuts += 1

    async def listen(self) -> None:
        """Take connections: at the port it had, if it had one."""
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Refuse connections, and reset those there are."""
        if self.server is not None:
            self.server.close()
        self.cut()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
            pair = {writer, up_writer}
            self._writers |= pair
            try:
                asked = asyncio.create_task(self._ask(reader, up_writer, writer))
                answered = asyncio.create_task(self._copy(up_reader, writer))
                await asyncio.wait([asked, answered], return_when=asyncio.FIRST_COMPLETED)
                for task in (asked, answered):
                    task.cancel()
                await asyncio.gather(asked, answered, return_exceptions=True)
            finally:
                self._writers -= pair
                for end in pair:
                    end.transport.abort()
        writer.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, up: asyncio.StreamWriter, down: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if self.cut_before and self.cut_before in data:
                self.cut_before, self.cuts = b"", self.cuts + 1
                return
            lost = bool(self.cut_after) and self.cut_after in data
            if lost:
                self.cut_after, self.cuts = b"", self.cuts + 1
                down.transport.abort()  # whatever the server answers, nobody is there
            up.write(data)
            await up.drain()
            if lost:
                await asyncio.sleep(0.3)  # the server does what it was told
                return

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if writer.transport.is_closing():
                await asyncio.sleep(1)
                return
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def open_proxy(target: int) -> AsyncIterator[TcpProxy]:
    """A proxy to a port on loopback until the block ends."""
    proxy = TcpProxy(target)
    await proxy.listen()
    try:
        yield proxy
    finally:
        proxy.refuse()
        await asyncio.sleep(0.05)
