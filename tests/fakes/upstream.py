"""An upstream that says what it saw of each request, and that a test can make slow, unhealthy or an echo of frames."""

import asyncio
import hashlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from aiohttp import WSMsgType, web

MUCH = 256 * 1024  # what Envoy lets through must not fail here


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str  # with the query, as spelled on the wire
    headers: tuple[tuple[str, str], ...]  # as spelled, in order
    server_name: str = ""  # what the client asked for by SNI
    client: str = ""  # common name of the client certificate
    protocol: str = ""  # what ALPN agreed on
    peer: str = ""  # the address of whoever sent it

    def values(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for each, value in self.headers if each.lower() == name.lower()]

    @property
    def host(self) -> str:
        return self.values("host")[0]


@dataclass(slots=True, kw_only=True)
class Upstream:
    """Where it listens, what it saw, and how it behaves from now on."""

    name: str
    port: int = 0
    tls: bool = False
    healthy: bool = True
    seen: list[Seen] = field(default_factory=list)
    probes: list[Seen] = field(default_factory=list)  # requests for /healthz, kept apart
    response_headers: list[tuple[str, str]] = field(default_factory=list)
    _names: WeakKeyDictionary[object, str] = field(default_factory=WeakKeyDictionary)  # by connection

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.address}"

    @property
    def last(self) -> Seen:
        return self.seen[-1]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """`/healthz` says how it is, `/slow` says nothing, websockets echo; anything else says who answered."""
        seen = self._see(request)
        if request.path == "/healthz":
            self.probes.append(seen)
            return web.Response(status=200 if self.healthy else 503)
        self.seen.append(seen)
        if request.headers.get("upgrade", "").lower() == "websocket":
            return await _echo_frames(request)
        if request.path.startswith("/slow"):
            await asyncio.Event().wait()
        received = hashlib.sha256(await request.read()).hexdigest()
        body = json.dumps({"from": self.name, "path": seen.path, "host": seen.host, "received": received})
        response = web.Response(text=body, content_type="application/json")
        for name, value in self.response_headers:
            response.headers.add(name, value)
        return response

    def watch_names(self, context: ssl.SSLContext) -> None:
        """Note the name that each handshake asks for."""

        def note(handshake: object, name: str | None, _context: ssl.SSLContext) -> None:
            self._names[handshake] = name or ""

        context.sni_callback = note

    def _see(self, request: web.Request) -> Seen:
        handshake: Any = request.transport.get_extra_info("ssl_object") if request.transport else None
        return Seen(
            method=request.method,
            path=request.raw_path,
            headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers),
            server_name=self._names.get(handshake, "") if handshake else "",
            client=_common_name(handshake.getpeercert()) if handshake else "",
            protocol=(handshake.selected_alpn_protocol() or "") if handshake else "",
            peer=request.remote or "",
        )


@asynccontextmanager
async def serve_upstream(
    name: str = "upstream", *, tls: ssl.SSLContext | None = None, path: Path | None = None
) -> AsyncIterator[Upstream]:
    """Serve on a free loopback port, or on the unix socket `path`, until the block ends."""
    upstream = Upstream(name=name, tls=tls is not None)
    if tls is not None:
        tls.set_alpn_protocols(["http/1.1"])
        upstream.watch_names(tls)
    app = web.Application(client_max_size=64 * MUCH)
    app.router.add_route("*", "/{path:.*}", upstream.answer)
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=0.1, max_line_size=MUCH, max_field_size=MUCH, max_headers=MUCH
    )
    await runner.setup()
    try:
        if path is not None:
            await web.UnixSite(runner, str(path)).start()
        else:
            listener = socket.create_server(("127.0.0.1", 0))
            upstream.port = listener.getsockname()[1]
            await web.SockSite(runner, listener, ssl_context=tls).start()
        yield upstream
    finally:
        await runner.cleanup()


async def _echo_frames(request: web.Request) -> web.WebSocketResponse:
    frames = web.WebSocketResponse(protocols=("chat",))
    await frames.prepare(request)
    async for message in frames:
        match message.type:
            case WSMsgType.TEXT:
                await frames.send_str(message.data)
            case WSMsgType.BINARY:
                await frames.send_bytes(message.data)
            case _:
                break
    return frames


def _common_name(certificate: Mapping[str, Any] | None) -> str:
    subject = (certificate or {}).get("subject", ())
    return next((value for part in subject for name, value in part if name == "commonName"), "")
