"""The agent's own pages, which Envoy serves on every host: health, keys, discovery, login (authenticate 2, R-8).

What is not there answers 404 and says so.
"""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from enum import Enum
from time import time_ns

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from pomerium_agent.authenticate import account, back_channel, callback, documents, portal, programs, sign_in, sign_out
from pomerium_agent.authenticate.answers import redirect, refuse, with_cookies
from pomerium_agent.authenticate.cookies import CALLBACK_PATH as OAUTH_CALLBACK
from pomerium_agent.authenticate.desk import Desk
from pomerium_agent.authenticate.rate import Rate
from pomerium_agent.authenticate.sign_in import TRACE
from pomerium_agent.authenticate.verify import MAX_BODY, Verifier
from pomerium_agent.authenticate.visit import Visit
from pomerium_agent.errors import AgentError, Retryable
from pomerium_agent.handoff.nonce import CALLBACK_PATH
from pomerium_agent.handoff.sign_in import SIGN_IN_PATH
from pomerium_agent.look import Icon, Message, render_message, security_headers
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.sites import close_door
from pomerium_agent.runtime.spans import Spans, parse_traceparent

BACKLOG = 1024
GRACE = 0.5  # seconds for answers that are under way when we stop
MAX_LINE = 64 * 1024  # of a request or a header: Envoy lets 60 KiB of both through, and cookies of others add up

PublicKeys = tuple[Mapping[str, str], ...]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Page = Callable[[Desk, Visit], Awaitable[web.StreamResponse]]

PAGE = render_message(
    Message(
        title="404 Not Found",
        text="There is no page of the login service at this address. Check the link, or go back.",
        icon=Icon.SEARCH,
    )
)
NOT_FOUND = "Not Found: there is no page of the login service at this address"
ENDS_OF_LOGINS: tuple[Page, ...] = (callback.callback, sign_in.oauth_callback)
ROBOTS = "User-agent: *\nDisallow: /\n"


class Place(Enum):
    """On which hosts a page is."""

    ANY = "any of this cluster"
    AUTHENTICATE = "the authenticate host, where that is ours"


@asynccontextmanager
async def serve_pages(
    sock: socket.socket, *, keys: Latest[PublicKeys], desk: Desk | None = None, spans: Spans | None = None
) -> AsyncIterator[None]:
    """Serve the pages on the listening socket `sock`, which is ours from now on, while the block runs.

    `keys` are the public JWKs of everything that may sign, so that upstreams can verify it (A-23). Without a `desk`
    nobody logs in. `spans` takes one for each page in a trace that is collected.

    On the way out nothing more is accepted, so callers wait in the socket's queue for the next agent, and answers
    under way get half a second.
    """
    with sock:
        middlewares: list[Middleware] = [_other_answers] if spans is None else [_traced(spans), _other_answers]
        app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY)
        app.on_response_prepare.append(_anonymous)
        app.router.add_get("/ping", _alive)
        app.router.add_get("/healthz", _alive)
        documents.add_documents(app, keys, desk.site if desk else None)
        if desk is not None:
            _add_login(app, desk)
        runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=GRACE,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
        )
        await runner.setup()
        try:
            site = web.SockSite(runner, sock, backlog=BACKLOG)
            await site.start()
            try:
                yield
            finally:
                await close_door(site)
        finally:
            await runner.cleanup()


def _traced(spans: Spans) -> Middleware:
    """A span for each page, named as the page is, linked with the trace that a login began in (routes 7.7)."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        parent = parse_traceparent(request.headers.get("traceparent", "")) if spans.on else None
        if parent is None:
            return await handler(request)
        began, status = time_ns(), 500
        try:
            response = await handler(request)
            status = response.status
        finally:
            route = request.match_info.route.resource
            facts: dict[str, str | int | bool] = {
                "http.request.method": request.method,
                "http.route": route.canonical if route is not None else "",  # and never the query
                "http.response.status_code": status,
            }
            link = parse_traceparent(request.query.get(TRACE[0], ""))
            failed = "the page could not be made" if status >= 500 else ""
            spans.add("page", parent, began, facts, error=failed, link=link, server=True)
        return response

    return middleware


def _add_login(app: web.Application, desk: Desk) -> None:
    """Every page of a login, and nothing else: only what changes nothing answers HEAD, too."""
    verifier = Verifier(proven=Rate(200, 400), open_to_all=Rate(10, 20))

    def add(method: str, path: str, page: Page, place: Place = Place.AUTHENTICATE) -> None:
        app.router.add_route(method, path, _answering(desk, page, place))

    for method in ("GET", "HEAD"):
        add(method, account.ACCOUNT, account.show_account, Place.ANY)
        add(method, account.ACCOUNT.rstrip("/"), _to_account_for_good, Place.ANY)
        add(method, account.USER, account.show_user, Place.ANY)
        add(method, "/.pomerium/jwt", account.show_assertion, Place.ANY)
        add(method, account.PORTAL, portal.show_portal, Place.ANY)
        add(method, "/.pomerium/api/v1/routes", portal.list_routes, Place.ANY)
        add(method, "/robots.txt", _robots)
    for method in ("GET", "POST"):
        add(method, account.SIGN_OUT, sign_out.sign_out, Place.ANY)
    add("GET", sign_out.SIGNED_OUT, sign_out.show_signed_out, Place.ANY)
    add("POST", back_channel.PATH, back_channel.log_out)
    add("GET", CALLBACK_PATH, callback.callback, Place.ANY)
    add("GET", CALLBACK_PATH.rstrip("/"), callback.without_slash, Place.ANY)
    add("GET", "/.pomerium/api/v1/login", programs.program_login, Place.ANY)
    add("GET", SIGN_IN_PATH, sign_in.sign_in)
    add("HEAD", SIGN_IN_PATH, sign_in.sign_in)
    add("GET", OAUTH_CALLBACK, sign_in.oauth_callback)
    add("POST", OAUTH_CALLBACK, sign_in.oauth_callback)
    add("POST", "/.pomerium/verify-access-token", verifier.access_token)
    add("POST", "/.pomerium/verify-identity-token", verifier.identity_token)
    add("*", "/", _to_account)


def _answering(desk: Desk, page: Page, place: Place) -> Handler:
    """The page on its hosts; what goes wrong becomes a page that says so, and no session."""

    async def answer(request: web.Request) -> web.StreamResponse:
        visit = Visit(request=request, site=desk.site.value)
        if not visit.site.shared_key or not visit.site.serves(visit.host):
            raise web.HTTPNotFound
        if place is Place.AUTHENTICATE and not visit.on_authenticate_host:
            raise web.HTTPNotFound
        try:
            return await page(desk, visit)
        except AgentError as error:
            if page in ENDS_OF_LOGINS:
                desk.metrics.logins.labels("unavailable" if isinstance(error, Retryable) else "refused").inc()
            return with_cookies(refuse(visit, error), visit.parting_cookies)

    return answer


async def _to_account_for_good(_desk: Desk, _visit: Visit) -> web.Response:
    return redirect("/.pomerium/", status=301)


async def _to_account(_desk: Desk, _visit: Visit) -> web.Response:
    return redirect("/.pomerium/")


async def _robots(_desk: Desk, _visit: Visit) -> web.Response:
    return web.Response(text=ROBOTS)


async def _alive(_request: web.Request) -> web.Response:
    return web.Response(text="OK\n")


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
