"""The order in which Envoy tries routes: first match wins, so this is where precedence lives (routes 3.5, 3.6)."""

from pomerium_agent.config.snapshot import Route
from pomerium_agent.config.source import MatchKind, Source

_INVERT = bytes(range(255, -1, -1))

SortKey = tuple[int, int, str, bytes, int, int, bytes, bytes, str]


def sort_key(
    source: Source, *, path: str, regex: str, prefix: str, regex_priority: int | None, route_id: str
) -> SortKey:
    """The place of a route: smaller is earlier.

    Wildcard hosts share one virtual host, and there the one with more literal characters comes first, so that
    `*.z.example.com` is not shadowed by `*.example.com` (routes 3.6). Then: from ascending, path descending,
    regex priority descending and unset last, regex descending, prefix descending, id ascending. `from` counts as the
    host that it means and not as it is spelled: or what is open to everybody on `https://app` or `https://*.app` would
    go before `/admin` of `http://app`, `https://app/` or `https://*.app:8443`.
    """
    wildcard = source.wildcard
    return (
        int(wildcard),
        -len(source.host.replace("*", "")) if wildcard else 0,
        source.origin,
        _descending(path),
        int(regex_priority is None),
        -(regex_priority or 0),
        _descending(regex),
        _descending(prefix),
        route_id,
    )


def sort_key_of(route: Route) -> SortKey:
    """The place of a route that is known only as it came out of an earlier compilation."""
    kind, value = route.match.kind, route.match.value
    return sort_key(
        route.source,
        path=value if kind is MatchKind.PATH else "",
        regex=value if kind is MatchKind.REGEX else "",
        prefix=value if kind is MatchKind.PREFIX and not route.bare else "",
        regex_priority=route.regex_priority,
        route_id=route.id,
    )


def _descending(text: str) -> bytes:
    """Bytes that sort the other way round; the closing 0xff puts the longer of two nested texts first."""
    return text.encode("utf-8", "surrogatepass").translate(_INVERT) + b"\xff"
