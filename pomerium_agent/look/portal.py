"""The routes portal: what the visitor may open, to look through and to search (authenticate.md 8.4)."""

from collections.abc import Sequence
from dataclasses import dataclass

from pomerium_agent.look.branding import PLAIN, Branding
from pomerium_agent.look.icons import Icon, badge, draw
from pomerium_agent.look.markup import NOTHING, Html, is_picture, tag
from pomerium_agent.look.shell import EMPTY_BAR, Bar, wide
from pomerium_agent.look.words import initials, monogram

_KINDS = {"http": "Web", "tcp": "TCP", "udp": "UDP", "mcp": "MCP"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalRoute:
    """One application."""

    id: str
    name: str = ""
    kind: str = "http"  # http, tcp, udp or mcp
    url: str = ""  # what a browser opens; for other kinds it is not a link
    host: str = ""
    description: str = ""
    connect_command: str = ""
    logo_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portal:
    """What the portal shows: all routes, and the words that narrow them down."""

    routes: Sequence[PortalRoute] = ()
    query: str = ""
    bar: Bar = EMPTY_BAR
    branding: Branding = PLAIN


def matches(route: PortalRoute, query: str) -> bool:
    """Whether every word of `query` is somewhere in what is shown of `route`; the script asks the same."""
    words = _findable(route)
    return all(word in words for word in query.lower().split())


def render_portal(portal: Portal) -> str:
    """The page as HTML. Without a script the search box asks this page again, with `?q=`."""
    fits = [matches(route, portal.query) for route in portal.routes]
    return wide(
        "Applications",
        portal.bar,
        _top(portal, sum(fits)),
        _nothing_fits(hidden=any(fits)) if portal.routes else _no_routes(),
        tag("ul", *(_card(route, shown=fit) for route, fit in zip(portal.routes, fits, strict=True)), class_="grid")
        if portal.routes
        else NOTHING,
        branding=portal.branding,
        current="Applications",
    )


def count(shown: int, total: int, query: str) -> str:
    everything = f"{total} application" + ("" if total == 1 else "s")
    return f"{shown} of {everything}" if query.split() else everything


def _top(portal: Portal, shown: int) -> Html:
    total = len(portal.routes)
    words = tag(
        "p", count(shown, total, portal.query), class_="soft", role="status", aria_live="polite", data_count=True
    )
    title = tag("div", tag("h1", "Applications"), words if total else NOTHING)
    return tag("div", title, _search(portal.query) if total else NOTHING, class_="top")


def _search(query: str) -> Html:
    box = tag(
        "input",
        class_="field",
        id="q",
        type="search",
        name="q",
        value=query,
        placeholder="Search",
        autocomplete="off",
        spellcheck="false",
        data_filter=True,
    )
    label = tag("label", "Search applications", for_="q", class_="seen")
    submit = tag("button", "Search", class_="quiet", type="submit")
    return tag("form", label, draw(Icon.SEARCH), box, submit, class_="find", role="search", method="get")


def _card(route: PortalRoute, *, shown: bool) -> Html:
    name = route.name or route.host or route.id
    title = tag("a", name, href=route.url) if route.kind == "http" and route.url else name
    where = tag("p", route.host, class_="soft small") if route.host != name else NOTHING
    kind = tag("span", _KINDS.get(route.kind, route.kind), class_="pill plain") if route.kind != "http" else NOTHING
    head = tag(
        "div",
        _picture(route, name),
        tag("div", tag("div", tag("h2", title), kind, class_="title"), where),
        class_="head",
    )
    about = tag("p", route.description, class_="about") if route.description else NOTHING
    return tag("li", head, about, _command(route), class_="card route", data_find=_findable(route), hidden=not shown)


def _picture(route: PortalRoute, name: str) -> Html:
    if is_picture(route.logo_url):
        return tag("img", class_="mono", src=route.logo_url, alt="", loading="lazy", referrerpolicy="no-referrer")
    return monogram(initials(name), name)


def _command(route: PortalRoute) -> Html:
    """What to type, or for MCP where to point a client, ready to be copied."""
    words = route.connect_command or (route.url if route.kind == "mcp" else "")
    if not words:
        return NOTHING
    copy = tag(
        "button",
        draw(Icon.COPY),
        tag("span", "Copy", class_="seen", role="status"),
        class_="quiet",
        type="button",
        hidden=True,
        data_copy=True,
    )
    return tag("div", tag("pre", tag("code", words), tabindex="0"), copy, class_="command")


def _findable(route: PortalRoute) -> str:
    kind = _KINDS.get(route.kind, route.kind)
    return " ".join((route.name, route.host, kind, route.description)).lower()


def _no_routes() -> Html:
    return _empty(
        "Nothing to open yet",
        "No application has been shared with you. If you expected one, ask whoever runs this site.",
    )


def _nothing_fits(*, hidden: bool) -> Html:
    return _empty("Nothing matches", "Try fewer or other words.", hidden=hidden, data_none=True)


def _empty(title: str, words: str, **attributes: bool) -> Html:
    return tag("div", badge(Icon.SEARCH), tag("h2", title), tag("p", words), class_="card empty", **attributes)
