"""The agent's own pages, which Envoy serves on every host: health, keys, discovery (routes.md 8.4, R-8).

Login is not among them yet: everything below `/.pomerium` answers 404 and says so.
"""

import hashlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import hdrs, web

from pomerium_agent.look import Icon, Message, render_message, security_headers
from pomerium_agent.runtime.latest import Latest

BACKLOG = 1024
GRACE = 0.5  # seconds for answers that are under way when we stop
WELL_KNOWN = "/.well-known/pomerium"
JWKS = f"{WELL_KNOWN}/jwks.json"
OPEN_TO_ALL = {"Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff"}

PublicKeys = tuple[Mapping[str, str], ...]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PAGE = render_message(
    Message(
        title="404 Not Found",
        text="There is nothing here. Login pages are not part of this version of pomerium-agent.",
        icon=Icon.SEARCH,
    )
)
NOT_FOUND = "Not Found: login pages are not part of this version"


@asynccontextmanager
async def serve_pages(sock: socket.socket, *, keys: Latest[PublicKeys]) -> AsyncIterator[None]:
    """Serve the pages on the listening socket `sock`, which is ours from now on, while the block runs.

    `keys` are the public JWKs of everything that may sign, so that upstreams can verify it (A-23).

    On the way out nothing more is accepted, so callers wait in the socket's queue for the next agent, and answers
    under way get half a second.
    """

    async def jwks(request: web.Request) -> web.Response:
        return _document(request, {"keys": keys.value})

    with sock:
        app = web.Application(middlewares=[_other_answers])
        app.on_response_prepare.append(_anonymous)
        app.router.add_get("/ping", _alive)
        app.router.add_get("/healthz", _alive)
        app.router.add_get(JWKS, jwks)
        app.router.add_get(WELL_KNOWN, _discovery)
        app.router.add_get(f"{WELL_KNOWN}/", _discovery)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=GRACE)
        await runner.setup()
        try:
            await web.SockSite(runner, sock, backlog=BACKLOG).start()
            yield
        finally:
            await runner.cleanup()


def _document(request: web.Request, value: object) -> web.Response:
    """A JSON document that seldom changes, with what caches need to know."""
    body = json.dumps(value).encode()
    etag = hashlib.sha256(body).hexdigest()[:32]
    known = request.if_none_match or ()
    if any(tag.value in (etag, "*") for tag in known):
        response = web.Response(status=304, headers=OPEN_TO_ALL)
    else:
        response = _json(body)
    response.etag = etag
    response.headers[hdrs.CACHE_CONTROL] = "max-age=60"
    return response


async def _alive(_request: web.Request) -> web.Response:
    return web.Response(text="OK\n")


async def _discovery(request: web.Request) -> web.Response:
    """Who this host is, for those who verify its assertions (authorize.md 14)."""
    issuer = f"https://{request.host}/"
    return _json(json.dumps({"issuer": issuer, "jwks_uri": f"https://{request.host}{JWKS}"}).encode())


def _json(body: bytes) -> web.Response:
    """The reachability check wants this content type to the letter (zero link 16.1), so no charset."""
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: "application/json", **OPEN_TO_ALL})


@web.middleware
async def _other_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What is not a page of ours, in the form of the client; a wrong method stays 405."""
    try:
        return await handler(request)
    except web.HTTPNotFound:
        if "application/json" in request.headers.get(hdrs.ACCEPT, ""):
            response = web.json_response({"error": NOT_FOUND}, status=404)
        else:
            headers = security_headers(personal=False)
            response = web.Response(text=PAGE, content_type="text/html", status=404, headers=headers)
        response.headers["x-pomerium-intercepted-response"] = "true"
        return response


async def _anonymous(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.pop(hdrs.SERVER, None)  # nobody's business which server and version this is
