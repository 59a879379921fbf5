"""The door to the login: which paths of the console's HTTP server are its own, on which hosts, for whom."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from pomerium_agent.console.login import openid, round_trip, sign_in, sign_out, tokens, verify
from pomerium_agent.console.login.answers import CORS, Refusal, redirect, refusal_response, refuse, trouble
from pomerium_agent.console.login.desk import Asked, Desk
from pomerium_agent.console.login.keys import LoginKeys
from pomerium_agent.console.login.settings import CALLBACK, LoginSettings
from pomerium_agent.errors import HandoffRejected, ProviderUnavailable, SettingsError
from pomerium_agent.handoff.keys import etag_of
from pomerium_agent.look import Trouble

log = structlog.get_logger(__name__)

WELL_KNOWN = "/.well-known/pomerium"
ROBOTS = "User-agent: *\nDisallow: /\n"
GET, POST = frozenset({"GET", "HEAD"}), frozenset({"POST"})
BOTH = GET | POST

Page = Callable[[Asked], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class Path:
    """`inside`: replicas ask, also by the internal name. `limited`: one address has a budget for it."""

    page: Page
    methods: frozenset[str]
    inside: bool = False
    limited: bool = True


class Door:
    """Answers what belongs to the login, and leaves everything else to who comes after it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def middleware(self) -> Middleware:
        """To be asked before the API."""

        @web.middleware
        async def login(request: web.Request, handler: Handler) -> web.StreamResponse:
            path = PATHS.get(request.path)
            answer = await self._answer(request, path) if path is not None else None
            return answer if answer is not None else await handler(request)

        return login

    async def _answer(self, request: web.Request, path: Path) -> web.Response | None:
        """None when the console logs nobody in."""
        try:
            found = await asyncio.to_thread(self._state)
        except (sqlite3.Error, SettingsError) as error:
            log.error("login failed", reason=str(error))
            return web.json_response({"error": "the console cannot use its own database"}, status=500)
        if found is None:
            return None
        settings, keys = found
        asked = Asked(request=request, desk=self._desk, settings=settings, keys=keys, now=self._desk.clock.now())
        return await _answer(asked, path)

    def _state(self) -> tuple[LoginSettings, LoginKeys] | None:
        settings = self._desk.store.logins.settings()
        return (settings, self._desk.store.logins.keys()) if settings is not None else None


async def _answer(asked: Asked, path: Path) -> web.Response:
    """The page, or why not. What the store or the key file did wrong is said in the log only."""
    if not _is_here(asked, inside=path.inside):
        text = f"people log in at {asked.settings.public_url}"
        return web.json_response({"error": text}, status=421)
    if asked.request.method not in path.methods:
        allow = ", ".join(sorted(path.methods))
        return web.json_response({"error": "method not allowed"}, status=405, headers={hdrs.ALLOW: allow})
    try:
        budget = asked.desk.by_replica if path.inside else asked.desk.by_address
        if path.limited and not budget.take(asked.address):
            raise sign_in.too_many(asked.address)
        return await path.page(asked)
    except Refusal as refusal:
        return refusal_response(asked, refusal)
    except HandoffRejected as error:
        text = "Go back to the site that you wanted to open, and begin there."
        return refusal_response(asked, refuse(400, "That cannot be read", text, why=str(error)))
    except ProviderUnavailable as error:
        return refusal_response(asked, trouble(503, Trouble.UNREACHABLE, why=str(error)))
    except (sqlite3.Error, SettingsError) as error:
        return refusal_response(asked, trouble(500, Trouble.FAILED, why=str(error)))


def _is_here(asked: Asked, *, inside: bool) -> bool:
    """Whether the Host header is the one of the login: cookies and links are its alone."""
    host = asked.request.headers.get(hdrs.HOST, "").lower()
    urls = [asked.settings.public_url, *([asked.settings.internal_url] if inside else [])]
    return any(_same_host(host, url) for url in urls if url)


def _same_host(host: str, url: str) -> bool:
    """The usual port may be said or left out."""
    parts = urlsplit(url)
    usual = ":443" if parts.scheme == "https" else ":80"
    return host.removesuffix(usual) == parts.netloc.lower().removesuffix(usual)


# --- what is said without knowing anybody -----------------------------------------------------------


async def hpke_public_key(asked: Asked) -> web.Response:
    """32 bytes as they are (authenticate 3.5, N-10)."""
    body = asked.keys.current(asked.now).public
    headers = {hdrs.CACHE_CONTROL: "max-age=60", hdrs.ETAG: f'"{etag_of(body)}"', **CORS}
    tags = (tag.strip().removeprefix("W/") for tag in asked.request.headers.get(hdrs.IF_NONE_MATCH, "").split(","))
    if any(tag in (headers[hdrs.ETAG], "*") for tag in tags):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type="application/octet-stream", headers=headers)


async def well_known(asked: Asked) -> web.Response:
    """Where things are (authenticate 2.1)."""
    url = asked.settings.public_url
    return web.json_response(
        {
            "issuer": f"{url}/",
            "authentication_callback_endpoint": asked.settings.redirect_uri,
            "jwks_uri": f"{url}{openid.JWKS}",
            "frontchannel_logout_uri": f"{url}{sign_out.SIGN_OUT}",
        },
        headers=CORS,
    )


async def robots(_: Asked) -> web.Response:
    return web.Response(text=ROBOTS)


async def home(_: Asked) -> web.Response:
    return redirect("/.pomerium/")


PATHS: Mapping[str, Path] = {
    f"{WELL_KNOWN}/hpke-public-key": Path(hpke_public_key, GET, inside=True, limited=False),
    WELL_KNOWN: Path(well_known, GET, inside=True),
    f"{WELL_KNOWN}/": Path(well_known, GET, inside=True),
    openid.JWKS: Path(openid.jwks, GET, inside=True, limited=False),
    "/.well-known/openid-configuration": Path(openid.discovery, GET, inside=True, limited=False),
    "/": Path(home, GET),
    "/robots.txt": Path(robots, GET),
    "/.pomerium": Path(home, GET),
    "/.pomerium/": Path(sign_out.account_page, GET),
    "/.pomerium/sign_in": Path(sign_in.sign_in, BOTH),
    sign_out.SIGN_OUT: Path(sign_out.sign_out, BOTH),
    sign_out.SIGNED_OUT: Path(sign_out.signed_out_page, GET),
    CALLBACK: Path(round_trip.come_back, BOTH),
    openid.AUTHORIZE: Path(openid.authorize, BOTH),
    openid.END_SESSION: Path(openid.end_session, BOTH),
    openid.TOKEN: Path(tokens.token, POST, inside=True),
    openid.REVOKE: Path(tokens.revoke, POST, inside=True),
    openid.USERINFO: Path(tokens.userinfo, BOTH, inside=True),
    verify.ACCESS: Path(verify.verify_token, POST, inside=True),
    verify.IDENTITY: Path(verify.verify_token, POST, inside=True),
}
