"""The control socket, and the health address where one is configured: status and probes over HTTP."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from pomerium_agent.agent.board import Board
from pomerium_agent.errors import SettingsError


def build_app(board: Board) -> web.Application:
    """`/status` says everything; `/startupz` and `/readyz` say whether visitors are served; `/healthz` that we live."""

    async def status(_request: web.Request) -> web.Response:
        return web.json_response(board.status(), dumps=lambda value: json.dumps(value, indent=2) + "\n")

    async def serving(_request: web.Request) -> web.Response:
        if board.ready:
            return web.Response(text="ok\n")
        return web.Response(status=503, text="no configuration is in force yet\n")

    async def alive(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application()
    app.router.add_get("/status", status)
    app.router.add_get("/startupz", serving)
    app.router.add_get("/readyz", serving)
    app.router.add_get("/healthz", alive)
    return app


@asynccontextmanager
async def serve_control(sock: socket.socket, board: Board, health_address: str) -> AsyncIterator[None]:
    """Serve on the inherited socket, and on `health_address` (checked with the settings) unless it is empty."""
    async with AsyncExitStack() as stack:
        runner = web.AppRunner(build_app(board), access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, sock).start()
        if health_address:
            host, _, port = health_address.rpartition(":")
            try:
                await web.TCPSite(runner, host.strip("[]") or None, int(port)).start()
            except OSError as error:
                raise SettingsError(f"HEALTH_CHECK_ADDR: cannot listen on {health_address}: {error}") from error
        yield
