"""The control socket, and the health address where one is configured: status, probes and explanations over HTTP."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from aiohttp import web

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.overview import overview, set_log_levels
from pomerium_agent.agent.people import People, list_sessions, revoke, show_session
from pomerium_agent.agent.recent import recent_denials
from pomerium_agent.authorize import Denials
from pomerium_agent.authorize.ask import explain_denied, explain_request, read_hypothetical
from pomerium_agent.config import Compiled
from pomerium_agent.config.whole import whole_config
from pomerium_agent.errors import DatabrokerUnavailable, EnvoyUnavailable, InvalidRequest, RecordNotFound
from pomerium_agent.policy.complaints import shown
from pomerium_agent.runtime.clock import Clock, SystemClock
from pomerium_agent.runtime.sites import close_door

log = structlog.get_logger(__name__)


def build_app(board: Board) -> web.Application:
    """`/status` says everything, and the probes one thing each; none of them asks after the control plane.

    `/startupz`: visitors have been served once, so starting is over. `/readyz`: they are served now, and may still be
    sent here. `/healthz`: this process answers.
    """

    async def status(_request: web.Request) -> web.Response:
        return web.json_response(board.status(), dumps=lambda value: json.dumps(value, indent=2) + "\n")

    async def started(_request: web.Request) -> web.Response:
        return _probed(board.not_started)

    async def ready(_request: web.Request) -> web.Response:
        return _probed(board.not_ready)

    async def alive(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    app = web.Application()
    app.router.add_get("/status", status)
    app.router.add_get("/startupz", started)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/healthz", alive)
    return app


def _probed(trouble: str) -> web.Response:
    return web.Response(status=503 if trouble else 200, text=(trouble or "ok") + "\n")


def build_control_app(board: Board, clock: Clock) -> web.Application:
    """The same, and what names people or holds secrets: only for whoever may open the socket.

    `POST /explain`, what was denied, who is signed in, what the control plane was told, and the whole configuration
    with its keys.
    """

    async def explain(request: web.Request) -> web.Response:
        if board.offered is None:
            return web.json_response({"error": "there is no configuration to explain yet"}, status=503)
        try:
            told = explain_by(await _read_object(request), board.offered, board.denials, clock.now())
        except InvalidRequest as error:
            return web.json_response({"error": str(error)}, status=400)
        except RecordNotFound as error:
            return web.json_response({"error": str(error)}, status=404)
        return web.json_response(told)

    async def config(_request: web.Request) -> web.Response:
        if board.offered is None:
            return web.json_response({"error": "this replica was not told any configuration yet"}, status=503)
        whole = await asyncio.to_thread(whole_config, board.offered.records)
        content = base64.b64encode(whole.SerializeToString(deterministic=True)).decode()
        return web.json_response({"digest": board.offered.snapshot.digest, "config": content})

    async def sessions(request: web.Request) -> web.Response:
        return await _answer(board, lambda people: list_sessions(people, dict(request.query), clock.now()))

    async def session(request: web.Request) -> web.Response:
        return await _answer(board, lambda people: show_session(people, request.match_info["id"], clock.now()))

    async def revoke_some(request: web.Request) -> web.Response:
        async def done(people: People) -> dict[str, Any]:
            told = await revoke(people, await _read_object(request), clock.now())
            for each in told["revoked"]:
                log.info("session revoked", session=each["id"], user=each["user_id"])
            return told

        return await _answer(board, done)

    app = build_app(board)
    _add_insight(app, board, clock)
    app.router.add_post("/explain", explain)
    app.router.add_get("/config", config)
    app.router.add_get("/telemetry", partial(_show_sent, board))
    app.router.add_get("/sessions", sessions)
    app.router.add_get("/sessions/{id}", session)
    app.router.add_post("/sessions/revoke", revoke_some)
    return app


async def _show_sent(board: Board, _request: web.Request) -> web.Response:
    """What was last sent to the control plane."""
    if board.link is None:
        return web.json_response({"error": "this replica has just started and has sent nothing yet"}, status=503)
    return web.json_response(board.link.sent.to_json())


def _add_insight(app: web.Application, board: Board, clock: Clock) -> None:
    """What the operator sees on one screen, and how much is logged."""

    async def everything(_request: web.Request) -> web.Response:
        return web.json_response(await overview(board, clock.now()))

    async def log_level(request: web.Request) -> web.Response:
        try:
            return web.json_response(await set_log_levels(board, await _read_object(request)))
        except InvalidRequest as error:
            return web.json_response({"error": str(error)}, status=400)
        except EnvoyUnavailable as error:
            return web.json_response({"error": str(error)}, status=503)

    async def denials(_request: web.Request) -> web.Response:
        return web.json_response(recent_denials(board.denials))

    app.router.add_get("/overview", everything)
    app.router.add_get("/denials", denials)
    app.router.add_post("/log-level", log_level)


async def _answer(board: Board, asked: Callable[[People], Awaitable[dict[str, Any]]]) -> web.Response:
    """What `asked` says of who is signed in, or why that cannot be said."""
    if board.people is None:
        return web.json_response({"error": "this replica has just started and knows no sessions yet"}, status=503)
    try:
        return web.json_response(await asked(board.people))
    except InvalidRequest as error:
        return web.json_response({"error": str(error)}, status=400)
    except RecordNotFound as error:
        return web.json_response({"error": str(error)}, status=404)
    except DatabrokerUnavailable as error:
        return web.json_response({"error": f"the databroker cannot be asked: {error}"}, status=503)


def explain_by(said: Mapping[str, object], offered: Compiled, denials: Denials, now: datetime) -> dict[str, Any]:
    """Explain the denial that `request_id` names, or else the request that is described.

    Raises InvalidRequest, and RecordNotFound for a denial that is not remembered.
    """
    if "request_id" not in said:
        return explain_request(offered.snapshot, read_hypothetical(said, now), offered.faults)
    request_id = said["request_id"]
    if not isinstance(request_id, str) or len(said) > 1:
        raise InvalidRequest("request_id: it is one text, and nothing else goes with it")
    denied = denials.find(request_id)
    if denied is None:
        raise RecordNotFound(f"no denial with the request id {shown(request_id)} is remembered; {_kept(denials)}")
    return explain_denied(offered.snapshot, denied, offered.faults)


def _kept(denials: Denials) -> str:
    if not len(denials):
        return "this replica has denied nothing since its agent started, and others keep their own"
    count, oldest = len(denials), denials.latest(len(denials))[-1].at
    last = "the last denial" if count == 1 else f"the last {count} denials"
    return (
        f"{last} of this replica, since {oldest.isoformat(timespec='seconds')}, can be explained; others keep their own"
    )


async def _read_object(request: web.Request) -> dict[str, object]:
    try:
        said = json.loads(await request.read())
    except (ValueError, RecursionError):
        raise InvalidRequest("the body is not JSON") from None
    if not isinstance(said, dict):
        raise InvalidRequest("the body is not a JSON object")
    return said


@asynccontextmanager
async def serve_control(sock: socket.socket, board: Board, health: socket.socket | None = None) -> AsyncIterator[None]:
    """Serve on the inherited sockets: all of it on the private one, probes and status on the health address."""
    async with AsyncExitStack() as stack:
        control = await _start(stack, build_control_app(board, SystemClock()))
        await _open(stack, web.SockSite(control, sock))
        if health is not None:
            public = await _start(stack, build_app(board))
            await _open(stack, web.SockSite(public, health))
        yield


async def _open(stack: AsyncExitStack, site: web.BaseSite) -> None:
    await site.start()
    stack.push_async_callback(close_door, site)


async def _start(stack: AsyncExitStack, app: web.Application) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner
