"""The routes portal: what this visitor may open, as a page and as JSON (authenticate 8.4).

The reference guesses from the shape of the policies. Ours asks them, with the visitor's own session, address and
certificate-less request for the route's first page; so it shows what would be let in, or asks for a device first.
"""

import ipaddress
from collections.abc import Iterator
from datetime import datetime

from aiohttp import hdrs, web

from pomerium_agent.authenticate.account import bar_of
from pomerium_agent.authenticate.answers import INTERCEPTED, html
from pomerium_agent.authenticate.desk import Desk
from pomerium_agent.authenticate.visit import Visit
from pomerium_agent.authenticate.visitor import Visitor, find_visitor
from pomerium_agent.config.hosts import provider_of_route
from pomerium_agent.config.kubernetes import names_somebody
from pomerium_agent.config.snapshot import Route
from pomerium_agent.config.source import Kind as SourceKind
from pomerium_agent.config.source import MatchKind, Source
from pomerium_agent.look import Portal, PortalRoute, read_branding, render_portal
from pomerium_agent.policy import Kind, judge_all
from pomerium_agent.policy.facts import STRANGER, Facts, Request
from pomerium_agent.sessions.identity import Resolved

SHOWN = (Kind.ALLOWED, Kind.ENROLL)
MAX_QUERY = 200  # characters of what is searched for


async def show_portal(desk: Desk, visit: Visit) -> web.Response:
    """The page; 404 where the flag `routes_portal` is off. Raises DatabrokerUnavailable."""
    routes = await _routes(visit, desk)
    branding = read_branding(visit.site.branding)
    query = visit.words("q")[:MAX_QUERY]
    bar = bar_of(visit, visit.site.login)
    return html(200, render_portal(Portal(routes=routes, query=query, bar=bar, branding=branding)))


async def list_routes(desk: Desk, visit: Visit) -> web.Response:
    """The same as JSON (8.4)."""
    routes = [_as_json(route) for route in await _routes(visit, desk)]
    return web.json_response({"routes": routes}, headers={hdrs.CACHE_CONTROL: "no-store", **INTERCEPTED})


async def _routes(visit: Visit, desk: Desk) -> list[PortalRoute]:
    if not visit.site.login.portal:
        raise web.HTTPNotFound
    visitor = await find_visitor(visit, desk)
    if visitor is None:
        raise web.HTTPNotFound  # authorization lets nobody come this far
    return list(listed(visit, visitor, desk.clock.now()))


def listed(visit: Visit, visitor: Visitor, now: datetime) -> Iterator[PortalRoute]:
    """The routes that this visitor may open, in matching order. A wildcard names no place, so it is left out."""
    idp_id = visitor.handle.idp_id
    for route in visit.site.routes:
        if route.source.wildcard:
            continue
        known = not idp_id or provider_of_route(route, visit.site.login).id == idp_id
        if route.public or _opens(route, visitor.resolved if known else None, visit, now):
            yield _as_shown(route, visit.port)


def _opens(route: Route, resolved: Resolved | None, visit: Visit, now: datetime) -> bool:
    if route.kubernetes and not (route.kubernetes_token and resolved and names_somebody(resolved.email)):
        return False
    tunnel = route.source.kind is not SourceKind.HTTP
    path = "" if tunnel else _first_page(route)
    request = Request(
        method="CONNECT" if tunnel else "GET",
        scheme="https" if tunnel else route.source.scheme,
        host=_host(route, visit.port),
        path=path,
        raw_path=path,
        ip=_address(visit.peer),
    )
    facts = Facts(request, resolved.identity if resolved else STRANGER, now=now)
    return judge_all(route.access.policies, facts)[1].kind in SHOWN


def _first_page(route: Route) -> str:
    return route.match.value if route.match.kind in (MatchKind.PREFIX, MatchKind.PATH) else "/"


def _host(route: Route, here: str) -> str:
    """A route without a port of its own is reached by the port by which the visitor came here (`:8443`, or none)."""
    source = route.source
    return f"{source.host}{here}" if source.port is None else f"{source.host}:{source.port}"


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _as_shown(route: Route, here: str) -> PortalRoute:
    source, host = route.source, _host(route, here)
    return PortalRoute(
        id=route.id,
        name=route.name or source.host,
        kind=source.kind.value,
        url=f"{source.scheme}://{host}{_first_page(route)}" if source.kind is SourceKind.HTTP else source.url,
        host=host,
        description=route.description,
        connect_command="\n".join(_commands(source, host)),
        logo_url=route.logo_url,
    )


def _commands(source: Source, host: str) -> Iterator[str]:
    """What to type, one line for each place that a tunnel may lead to; a place behind a shared host takes its URL."""
    if source.kind is not SourceKind.HTTP:
        for place in [f"{source.scheme}://{host}/{target}" for target in source.targets] or [host]:
            yield f"pomerium-cli {source.kind.value} {place}"


def _as_json(route: PortalRoute) -> dict[str, str]:
    told = {
        "id": route.id,
        "name": route.name,
        "type": route.kind,
        "from": route.url,
        "description": route.description,
        "logo_url": route.logo_url,
    }
    return told | ({"connect_command": route.connect_command} if route.connect_command else {})
