"""The sample upstream of the demo: answers every request with what it saw of it."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


async def echo(request: web.Request) -> web.Response:
    """Method, path and headers of the request, as JSON, so that one can see what the proxy did to it."""
    return web.json_response(
        {
            "message": "hello from the upstream",
            "method": request.method,
            "path": request.path_qs,
            "headers": {name.lower(): value for name, value in request.headers.items()},
        }
    )


@asynccontextmanager
async def serve_upstream() -> AsyncIterator[int]:
    """Serve on a free loopback port; yields the port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", echo)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        sock = socket.create_server(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        await web.SockSite(runner, sock).start()
        yield port
    finally:
        await runner.cleanup()
