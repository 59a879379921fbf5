"""Which route a request meets: what Envoy would choose, worked out from the snapshot alone (routes 3.2 to 3.6)."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import re2

from pomerium_agent.config.snapshot import ConfigSnapshot, EscapedSlashes, Route, Settings
from pomerium_agent.config.source import Kind, MatchKind
from pomerium_agent.envoyconfig.virtual_hosts import authority_regexes, has_port, host_names, literal_length

CONNECT = "CONNECT"
_OWN_PATHS = frozenset({"/ping", "/healthz"})
_OWN_PREFIXES = ("/.pomerium", "/.well-known/pomerium")
_LOGIN_PATHS = frozenset({"/oauth2/callback", "/", "/robots.txt"})
_ESCAPED_SLASH = re.compile("%2f|%5c", re.IGNORECASE)
_ESCAPED = re.compile("%[0-9a-fA-F]{2}")
_UNRESERVED = re.compile("[A-Za-z0-9._~-]")  # RFC 3986, 2.3: escaping these means nothing


class Located(NamedTuple):
    """Where a request ends up. `internal` is one of the agent's own pages; with neither, Envoy answers 404."""

    route: Route | None
    internal: bool = False
    on_host: int = 0  # routes that were asked: those of the one virtual host that the request belongs to


def asks_for_udp(headers: Mapping[str, str]) -> bool:
    """Whether the request is for a UDP tunnel, as Envoy presents one (routes 6.2)."""
    return headers.get("upgrade", "").lower() == "connect-udp"


def locate(snapshot: ConfigSnapshot, *, host: str, path: str, method: str = "GET", udp: bool = False) -> Located:
    """The first route that matches, in the one virtual host that the Host header chooses; there is no way back.

    `host` is as sent, with the port that a client would send; `path` is normalized, and without the query. `udp`: it
    is for a tunnel of datagrams.
    """
    host = host.lower()
    login, routes = _virtual_host(snapshot, host)
    if method != CONNECT and _is_own(path, login=login):
        return Located(None, internal=True)
    members = list(routes)
    for route in members:
        if _matches(route, path, Kind.UDP if udp else Kind.TCP if method == CONNECT else Kind.HTTP):
            return Located(route, on_host=len(members))
    return Located(None, on_host=len(members))


def normalized(path: str, settings: Settings) -> str | None:
    """A path as routes and policies see it; None when Envoy answers 400 instead. A redirect counts as followed."""
    action = settings.escaped_slashes
    if _ESCAPED_SLASH.search(path):
        if action is EscapedSlashes.REJECT_REQUEST:
            return None
        if action in (EscapedSlashes.UNESCAPE_AND_FORWARD, EscapedSlashes.UNESCAPE_AND_REDIRECT):
            path = _ESCAPED_SLASH.sub(lambda found: "/" if found[0].lower() == "%2f" else "\\", path)
    if settings.normalize_path:
        path = _without_dots(_ESCAPED.sub(_unescaped, path.replace("\\", "/")))
    return re.sub("/{2,}", "/", path) if settings.merge_slashes else path


def _unescaped(found: re.Match[str]) -> str:
    character = chr(int(found[0][1:], 16))
    return character if _UNRESERVED.fullmatch(character) else found[0]


def _without_dots(path: str) -> str:
    """RFC 3986, 5.2.4."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for number, segment in enumerate(segments, start=1):
        if segment not in (".", ".."):
            kept.append(segment)
            continue
        if segment == ".." and kept:
            kept.pop()
        if number == len(segments):
            kept.append("")
    return "/" + "/".join(kept)


def _virtual_host(snapshot: ConfigSnapshot, host: str) -> tuple[bool, Iterable[Route]]:
    """Whether the login service answers there, and its routes: exact, then for any port, then the catch-all."""
    any_port = snapshot.settings.match_any_incoming_port
    bare = host.rpartition(":")[0] if has_port(host) else ""
    exact: list[Route] = []
    without_port: list[Route] = []
    wild: list[Route] = []
    for route in snapshot.routes:
        names = host_names(route.source, any_port=any_port)
        if not names:
            wild.append(route)
        elif host in names:
            exact.append(route)
        elif bare and bare in names:
            without_port.append(route)
    login = frozenset(_with_port(snapshot.settings.hosts_of_authenticate, any_port=any_port))
    # Hosts that are there without a route of their own, and so keep wildcards from catching their requests.
    named = login.union(_with_port(filter(None, (r.downstream_name for r in snapshot.routes)), any_port=any_port))
    if exact or host in named:
        return host in login, exact
    if any_port and bare and (without_port or bare in named):
        return bare in login, without_port
    wild.sort(key=lambda route: -literal_length(route.source))
    return False, (route for route in wild if _is_under(route, host, any_port=any_port))


def _with_port(names: Iterable[str], *, any_port: bool) -> Iterator[str]:
    for name in names:
        yield name.lower()
        if not any_port and not has_port(name):
            yield f"{name.lower()}:443"


def _is_under(route: Route, host: str, *, any_port: bool) -> bool:
    """Whether the host fits the wildcard of a route."""
    return any(_fits(pattern, host) for pattern in authority_regexes(route.source, any_port=any_port))


def _is_own(path: str, *, login: bool) -> bool:
    """The agent's own pages come before any route (R-8)."""
    if path in _OWN_PATHS or (login and path in _LOGIN_PATHS):
        return True
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in _OWN_PREFIXES)


def _matches(route: Route, path: str, asked: Kind) -> bool:
    kind, value = route.match.kind, route.match.value
    if asked is Kind.TCP or kind is MatchKind.CONNECT:
        return kind is MatchKind.CONNECT and route.source.kind is asked
    if kind is MatchKind.PATH:
        return path == value
    if kind is MatchKind.PREFIX:
        return path.startswith(value)
    return _fits(value, path)


def _fits(pattern: str, text: str) -> bool:
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options).fullmatch(text) is not None
