"""What the metrics listener shows, and to whom (routes 7.5). Envoy brings requests here over a unix socket of ours.

Both paths ask for the same name and password. The agent fetches what Envoy counts from Envoy's admin socket, that one
path of it, so that nothing else of the admin can be reached from outside whatever a request looks like.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.gauges import BoardGauges
from pomerium_agent.databroker import ServerInfo
from pomerium_agent.envoyconfig.metrics import ALL_PATH, ENVOY_PATH
from pomerium_agent.errors import DatabrokerUnavailable, EnvoyUnavailable
from pomerium_agent.settings import Secret

METRICS_SOCKET = "metrics.sock"  # in the runtime directory
TEXT = "text/plain; version=0.0.4; charset=utf-8"
BACKLOG = 128
STORE_SECONDS = 2.0  # that the store may take to say how long its log is; without it, the rest is shown
LONGEST_CREDENTIALS = 4096
SCRAPED = b"""# HELP pomerium_envoy_scraped Whether Envoy's own metrics follow, 1 or 0.
# TYPE pomerium_envoy_scraped gauge
pomerium_envoy_scraped %d
"""
CHALLENGE = 'Basic realm="metrics", charset="UTF-8"'


class OwnProcess(ProcessCollector):
    """The usual metrics of a process, also where a service manager hides `/proc/stat` (ProcSubset=pid)."""

    def _boot_time(self) -> float:
        """Without it the library shows nothing at all; it would look for it in that file."""
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


@asynccontextmanager
async def serve_metrics(path: Path, board: Board) -> AsyncIterator[None]:
    """Answer scrapes on a socket at `path`, taking it over from an agent before us, until the block ends."""
    gauges = BoardGauges(board)
    board.metrics.registry.register(gauges)
    app = build_metrics_app(board)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, await asyncio.to_thread(_listen, path)).start()
        yield
    finally:
        await runner.cleanup()
        board.metrics.registry.unregister(gauges)


def build_metrics_app(board: Board) -> web.Application:
    """`/metrics`: the agent and Envoy; `/metrics/envoy`: Envoy alone. `?usedonly`: without what Envoy never touched."""
    process = CollectorRegistry(auto_describe=False)
    OwnProcess(registry=process)

    async def everything(request: web.Request) -> web.Response:
        if (refused := _refusal(request, board)) is not None:
            return refused
        board.log_ends = await _log_ends(board)
        own = board.metrics.page() + await asyncio.to_thread(generate_latest, process)
        envoy = await _envoy(request, board)
        return _page(board, own + (SCRAPED % (envoy is not None)) + (envoy or b""))

    async def envoy_alone(request: web.Request) -> web.Response:
        if (refused := _refusal(request, board)) is not None:
            return refused
        envoy = await _envoy(request, board)
        return _page(board, envoy) if envoy is not None else _answer(board, 503, "envoy does not answer")

    app = web.Application()
    app.router.add_get(ALL_PATH, everything)
    app.router.add_get(ENVOY_PATH, envoy_alone)
    return app


def _refusal(request: web.Request, board: Board) -> web.Response | None:
    """Why this request gets nothing; None when it may have everything. What is not known yet is closed."""
    listener = board.offered.snapshot.settings.metrics if board.offered is not None else None
    if listener is None:
        return _answer(board, 503, "there are no metrics to be had now")
    if listener.basic_auth is None:
        return None
    said = request.headers.getall(hdrs.AUTHORIZATION, [])
    if len(said) == 1 and knows(said[0], listener.basic_auth):
        return None
    answer = _answer(board, 401, "name and password, please")
    answer.headers[hdrs.WWW_AUTHENTICATE] = CHALLENGE
    return answer


def knows(authorization: str, expected: Secret) -> bool:
    """Whether this `Authorization` is by name and password `expected`; how long that takes says nothing about them."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic" or len(encoded) > LONGEST_CREDENTIALS:
        return False
    try:
        said = base64.b64decode(encoded.strip(), validate=True)
    except (binascii.Error, ValueError):
        return False
    # Hashed, since a comparison takes longer for longer texts.
    return hmac.compare_digest(hashlib.sha256(said).digest(), hashlib.sha256(expected.encode()).digest())


async def _envoy(request: web.Request, board: Board) -> bytes | None:
    if board.admin is None:
        return None
    try:
        return await board.admin.scrape(used_only="usedonly" in request.query)
    except EnvoyUnavailable:
        return None


async def _log_ends(board: Board) -> ServerInfo | None:
    if board.databroker is None:
        return None
    try:
        async with asyncio.timeout(STORE_SECONDS):
            return await board.databroker.server_info()
    except (DatabrokerUnavailable, TimeoutError):
        return None


def _page(board: Board, body: bytes) -> web.Response:
    board.metrics.scrapes.labels("ok").inc()
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: TEXT, hdrs.CACHE_CONTROL: "no-store"})


def _answer(board: Board, status: int, text: str) -> web.Response:
    board.metrics.scrapes.labels("unauthorized" if status == 401 else "unavailable").inc()
    return web.Response(status=status, text=text + "\n")


def _listen(path: Path) -> socket.socket:
    """A listening socket that is private from its first moment on, in the place of whatever was there."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(str(new))
        new.chmod(0o600)
        sock.listen(BACKLOG)
        new.replace(path)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock
