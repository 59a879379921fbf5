"""What a route does besides forwarding, and how a forwarded request is changed on its way (routes 1.3, 4.2)."""

from collections.abc import Iterable

from pomerium_agent.config.action import DirectResponse, Endpoint, HostRewrite, Redirect
from pomerium_agent.config.complaints import Complaints, Unusable, shown
from pomerium_agent.config.headers import parse_header_name
from pomerium_agent.config.kubernetes import is_kubernetes
from pomerium_agent.config.regexes import parse_regex, parse_rewrite
from pomerium_agent.config.source import Match, MatchKind
from pomerium_agent.pb.pomerium import config_pb2

REDIRECT_CODES = (301, 302, 303, 307, 308)
# RouteConfiguration.max_direct_response_body_size_bytes; Envoy refuses the whole table above it.
MAX_BODY_BYTES = 1024 * 1024


def parse_match(route: config_pb2.Route, complaints: Complaints) -> Match | None:
    """The one matcher of an HTTP route: regex, else path, else prefix, else everything (routes 3.4)."""
    if route.regex:
        regex = complaints.attempt("regex", parse_regex, route.regex)
        return Match(MatchKind.REGEX, regex) if regex is not None else None
    kind, field, value = MatchKind.PREFIX, "prefix", route.prefix or "/"
    if route.path:
        kind, field, value = MatchKind.PATH, "path", route.path
    if not value.startswith("/"):
        complaints.warn(
            field, f"{shown(value)} does not begin with a slash, so it never matches", f"write /{value[:60]}"
        )
    elif "?" in value or "#" in value:
        complaints.warn(
            field,
            f"{shown(value)} has a ? or a #, which are no part of a path, so it never matches",
            "leave out everything from there on",
        )
    return Match(kind, value)


def parse_redirect(redirect: config_pb2.RouteRedirect, complaints: Complaints) -> Redirect:
    """A redirect; `https_redirect` wins over a scheme and `path_redirect` over a prefix (routes 1.3)."""
    code = redirect.response_code if redirect.HasField("response_code") else 301
    if code not in REDIRECT_CODES:
        complaints.refuse(
            "redirect.response_code",
            f"unsupported redirect response code {code}",
            f"use one of {', '.join(map(str, REDIRECT_CODES))}",
        )
    port = redirect.port_redirect if redirect.HasField("port_redirect") else None
    if port is not None and not 1 <= port <= 65535:
        complaints.refuse("redirect.port_redirect", f"{port} is not a port", "use a port from 1 to 65535")
    for field in ("scheme_redirect", "host_redirect", "path_redirect", "prefix_rewrite"):
        complaints.attempt(f"redirect.{field}", _one_line, getattr(redirect, field))
    https = redirect.https_redirect if redirect.HasField("https_redirect") else None
    path = _optional(redirect, "path_redirect")
    return Redirect(
        https=https,
        scheme=_optional(redirect, "scheme_redirect") if https is None else None,
        host=_optional(redirect, "host_redirect"),
        port=port,
        path=path,
        prefix=_optional(redirect, "prefix_rewrite") if path is None else None,
        code=code,
        strip_query=redirect.strip_query,
    )


def parse_response(response: config_pb2.RouteDirectResponse, complaints: Complaints) -> DirectResponse:
    """A fixed answer, within Envoy's limits (routes 4.4)."""
    if not 200 <= response.status < 600:
        complaints.refuse("response.status", f"{response.status} is not between 200 and 599", "use another status")
    if len(response.body.encode()) > MAX_BODY_BYTES:
        complaints.refuse("response.body", f"it is longer than {MAX_BODY_BYTES} bytes", "serve it from an upstream")
    return DirectResponse(status=response.status, body=response.body)


def parse_path_rewrite(
    route: config_pb2.Route, endpoints: Iterable[Endpoint], complaints: Complaints
) -> tuple[str, str, str]:
    """(prefix_rewrite, regex_rewrite, regex_substitution): the route's own, else the path of `to[0]` (routes 4.2)."""
    if route.prefix_rewrite and route.regex_rewrite_pattern:
        complaints.refuse(
            "prefix_rewrite", "prefix_rewrite and regex_rewrite_pattern are both set", "keep only one of them"
        )
    complaints.attempt("prefix_rewrite", _one_line, route.prefix_rewrite)
    pattern, substitution = route.regex_rewrite_pattern, route.regex_rewrite_substitution
    if pattern:
        complaints.attempt("regex_rewrite_pattern", parse_regex, pattern) and complaints.attempt(
            "regex_rewrite_substitution", lambda text: parse_rewrite(pattern, text), substitution
        )
        return route.prefix_rewrite, pattern, substitution
    if substitution:
        complaints.warn(
            "regex_rewrite_substitution",
            "it does nothing without regex_rewrite_pattern",
            "set the pattern or remove it",
        )
    first = next(iter(endpoints), None)
    return route.prefix_rewrite or (first.path if first is not None else ""), "", ""


def parse_host_rewrite(route: config_pb2.Route, complaints: Complaints) -> HostRewrite:
    """The first of host_rewrite, host_rewrite_header, host_path_regex_rewrite_*, preserve_host_header (routes 4.2)."""
    pattern = route.host_path_regex_rewrite_pattern
    substitution = route.host_path_regex_rewrite_substitution
    if route.host_rewrite:
        complaints.attempt("host_rewrite", _one_line, route.host_rewrite)
    if route.host_rewrite_header:
        complaints.attempt("host_rewrite_header", _request_header, route.host_rewrite_header)
    if pattern:
        complaints.attempt("host_path_regex_rewrite_pattern", parse_regex, pattern) and complaints.attempt(
            "host_path_regex_rewrite_substitution", lambda text: parse_rewrite(pattern, text), substitution
        )
    if route.host_rewrite:
        return HostRewrite(literal=route.host_rewrite)
    if route.host_rewrite_header:
        return HostRewrite(header=route.host_rewrite_header)
    if pattern:
        return HostRewrite(path_regex=pattern, path_substitution=substitution)
    return HostRewrite(preserve=route.preserve_host_header)


def parse_upgrades(
    route: config_pb2.Route, defaults: Iterable[str], complaints: Complaints
) -> tuple[tuple[str, bool], ...]:
    """Every upgrade with an explicit yes or no, each type once whatever its case (routes 6.2, R-10)."""
    wanted: dict[str, str] = {}
    for name in route.allow_upgrades.values if route.HasField("allow_upgrades") else defaults:
        if name:
            complaints.attempt("allow_upgrades", _one_line, name)
            wanted.setdefault(name.lower(), name)
    kubernetes = is_kubernetes(route)  # kubectl exec, attach and port-forward need one or the other (routes 9.6)
    websocket = route.allow_websockets or "websocket" in wanted or kubernetes
    spdy = route.allow_spdy or "spdy/3.1" in wanted or kubernetes
    others = tuple((name, True) for key, name in wanted.items() if key not in ("websocket", "spdy/3.1"))
    return (("websocket", websocket), ("spdy/3.1", spdy), *others)


def _request_header(name: str) -> str:
    """A header to read the host from; `Host` and `:authority` are what it already is."""
    return name if name.lower() in ("host", ":authority") else parse_header_name(name)


def _one_line(text: str) -> str:
    if any(character in text for character in "\r\n\0"):
        raise Unusable("it has a line break or NUL inside", "remove it")
    return text


def _optional(redirect: config_pb2.RouteRedirect, field: str) -> str | None:
    """A present and non-empty text; Envoy takes an empty one for absent."""
    value: str = getattr(redirect, field)
    return value or None
