"""A client that speaks HTTP/3: aioquic, and no code of ours or of Envoy's."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent
from cryptography import x509

from tests.fakes.client_certificates import Signed

PATIENCE = 15
_CHUNK = 1 << 16
Headers = Iterable[tuple[str, str]]


class HungUp(Exception):
    """The connection is over."""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, list[str]]
    body: bytes


class H3Client(QuicConnectionProtocol):
    """One connection, any number of requests."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._http = H3Connection(self._quic)
        self._heard: dict[int, asyncio.Queue[HeadersReceived | DataReceived]] = {}
        self.ended = asyncio.Event()

    @property
    def certificate(self) -> x509.Certificate:
        """What the server showed."""
        found = self._quic.tls._peer_certificate
        assert found is not None
        return found

    async def ask(
        self, host: str, path: str = "/", *, method: str = "GET", headers: Headers = (), body: bytes = b""
    ) -> Reply:
        """One request; raises HungUp when it is never answered."""
        pseudo = [(":method", method), (":scheme", "https"), (":authority", host), (":path", path)]
        return await self.send([*pseudo, *headers], body)

    async def send(self, headers: Headers, body: bytes = b"") -> Reply:
        """A request of any kind."""
        stream = self._quic.get_next_available_stream_id()
        heard = self._heard.setdefault(stream, asyncio.Queue())
        sent = [(name.encode(), value.encode()) for name, value in headers]
        self._http.send_headers(stream, sent, end_stream=not body)
        for start in range(0, len(body), _CHUNK):
            self._http.send_data(stream, body[start : start + _CHUNK], end_stream=start + _CHUNK >= len(body))
        self.transmit()
        status, found, received = 0, dict[str, list[str]](), bytearray()
        async with asyncio.timeout(PATIENCE):
            while True:
                event = await self._next(heard)
                if isinstance(event, HeadersReceived):
                    for name, value in event.headers:
                        found.setdefault(name.decode(), []).append(value.decode())
                    status = int(found[":status"][0])
                else:
                    received += event.data
                if event.stream_ended:
                    return Reply(status, found, bytes(received))

    async def _next(self, heard: "asyncio.Queue[HeadersReceived | DataReceived]") -> HeadersReceived | DataReceived:
        async with asyncio.TaskGroup() as group:
            event, over = group.create_task(heard.get()), group.create_task(self.ended.wait())
            done, waiting = await asyncio.wait((event, over), return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()
        if event not in done:
            raise HungUp
        return event.result()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.ended.set()
        for heard in self._http.handle_event(event):
            if isinstance(heard, HeadersReceived | DataReceived):
                self._heard.setdefault(heard.stream_id, asyncio.Queue()).put_nowait(heard)


@asynccontextmanager
async def http3(
    port: int, server_name: str, shown: Signed | None = None, directory: Path | None = None
) -> AsyncIterator[H3Client]:
    """A connection to loopback that believes any server; `shown`: its own certificate, for which files go there."""
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["h3"], server_name=server_name, verify_mode=ssl.CERT_NONE
    )
    if shown is not None and directory is not None:
        chain, key = directory / "shown.pem", directory / "shown.key"
        chain.write_text(shown.pem)
        key.write_text(shown.key_pem)
        configuration.load_cert_chain(chain, key)
    try:
        async with asyncio.timeout(PATIENCE):
            manager = connect("127.0.0.1", port, configuration=configuration, create_protocol=H3Client)
            client = cast(H3Client, await manager.__aenter__())
    except ConnectionError:
        raise HungUp from None
    try:
        yield client
    finally:
        client.close()
        async with asyncio.timeout(PATIENCE):
            await manager.__aexit__(None, None, None)
