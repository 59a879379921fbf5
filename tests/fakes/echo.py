"""An upstream that answers with what it was asked."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass(slots=True)
class Echo:
    """Where it listens, and every request it saw: method, path with query, headers in order."""

    port: int = 0
    seen: list[tuple[str, str, list[tuple[str, str]]]] = field(default_factory=list)
    response_headers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def last_headers(self) -> dict[str, list[str]]:
        """The headers of the last request, by lower-case name."""
        found: dict[str, list[str]] = {}
        for name, value in self.seen[-1][2]:
            found.setdefault(name.lower(), []).append(value)
        return found

    async def answer(self, request: web.Request) -> web.Response:
        headers = [(name.decode(), value.decode()) for name, value in request.raw_headers]
        self.seen.append((request.method, request.raw_path, headers))
        response = web.Response(text="from upstream")
        for name, value in self.response_headers:
            response.headers.add(name, value)
        return response


@asynccontextmanager
async def serving_echo(tls: ssl.SSLContext | None = None) -> AsyncIterator[Echo]:
    """Serve on a free port of loopback for the length of the block."""
    echo = Echo()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", echo.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        [echo.port] = [port for _, port, *_ in runner.addresses]
        yield echo
    finally:
        await runner.cleanup()
