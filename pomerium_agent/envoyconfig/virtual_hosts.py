"""Hosts: which names a route answers to, and the virtual hosts that hold the routes (routes 3.2, 3.6, 8.4).

Virtual hosts are kept as bytes. Each is a run of length-delimited fields (name, domains, the internal routes that
are the same everywhere, then its own routes), so a host is put together by joining kept bytes, and the whole
route table by joining hosts. Field numbers ascend, as Envoy itself would write them.
"""

from collections.abc import Iterable

from google.protobuf.message import Message

from pomerium_agent.config.snapshot import Route
from pomerium_agent.config.source import Kind, Source
from pomerium_agent.envoyconfig.headers import header_option, response_value
from pomerium_agent.envoyconfig.rate_limits import LOGIN_LIMIT
from pomerium_agent.envoyconfig.route import NOT_CHECKED, RouteContext, build_route
from pomerium_agent.envoyconfig.skip import AS_IT_IS, EXT_AUTHZ
from pomerium_agent.envoyconfig.wire import any_of, field_bytes
from pomerium_agent.pb.envoy.config.route.v3 import route_components_pb2 as pb
from pomerium_agent.pb.envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2

# As a key it stands for every host that has no virtual host of its own; no host name can look like it.
CATCH_ALL = "*"
PAGES_CLUSTER = "pomerium-control-plane-http"
_ROUTES_FIELD = pb.VirtualHost.ROUTES_FIELD_NUMBER

# Authorization is asked about these, and knows which of them need somebody who is signed in (authorize 17).
_CHECKED = any_of(
    ext_authz_pb2.ExtAuthzPerRoute(
        check_settings=ext_authz_pb2.CheckSettings(
            context_extensions={"internal": "true", "route_id": "", "route_checksum": "0"}
        )
    )
)
# Served by the agent on every host, before any configured route. A path-separated prefix stands for the
# path itself and everything below it, so two routes do what Pomerium's four do.
_INTERNAL = (
    (pb.RouteMatch(path="/ping"), NOT_CHECKED, ()),
    (pb.RouteMatch(path="/healthz"), NOT_CHECKED, ()),
    (pb.RouteMatch(path_separated_prefix="/.pomerium"), _CHECKED, (LOGIN_LIMIT,)),
    (pb.RouteMatch(path_separated_prefix="/.well-known/pomerium"), NOT_CHECKED, ()),
)
# Served on the hosts of the login service only.
_AUTHENTICATE = (
    (pb.RouteMatch(path="/oauth2/callback"), NOT_CHECKED, (LOGIN_LIMIT,)),
    (pb.RouteMatch(path="/"), NOT_CHECKED, ()),
    (pb.RouteMatch(path="/robots.txt"), NOT_CHECKED, ()),
)
_REGEX_SPECIAL = frozenset("\\.+*?()|[]{}^$")


def host_names(source: Source, *, any_port: bool) -> tuple[str, ...]:
    """The virtual hosts a `from` belongs to, by name; none for a wildcard, whose routes live in the catch-all."""
    if source.targets:
        return tuple(dict.fromkeys(source.targets))
    if source.wildcard:
        return ()
    host = f"[{source.host}]" if ":" in source.host and not source.host.startswith("[") else source.host
    default = default_port(source)
    if source.kind is not Kind.HTTP:
        return (host if source.port is None else f"{host}:{source.port}",)
    if source.port not in (None, default):
        return (f"{host}:{source.port}",)
    return (host,) if any_port else (host, f"{host}:{default}")


def default_port(source: Source) -> int:
    """The port a browser would use."""
    return 80 if source.scheme == "http" else 443


def domains(name: str, *, any_port: bool) -> tuple[str, ...]:
    """What a Host header may say to reach the virtual host `name`; Envoy prefers an exact port to any port."""
    if name == CATCH_ALL or has_port(name) or not any_port:
        return (name,)
    return (name, f"{name}:*")


def has_port(host: str) -> bool:
    """Whether a host ends with a port; an IPv6 address is in brackets."""
    return ":" in host.rpartition("]")[2]


def authority_regexes(source: Source, *, any_port: bool) -> tuple[str, ...]:
    """What the Host header of a wildcard `from` must look like, one expression per route to be made (routes 3.6).

    In any case, as Envoy matches all other hosts: a stricter wildcard must not be passed by in capital letters.
    """
    literal = "".join("(.*)" if c == "*" else f"\\{c}" if c in _REGEX_SPECIAL else c for c in source.host)
    default = default_port(source)
    if source.port not in (None, default):
        return (f"(?i)^{literal}:{source.port}$",)
    if any_port:
        return (rf"(?i)^{literal}(:(.+))?$",)
    return (f"(?i)^{literal}$", f"(?i)^{literal}:{default}$")


def literal_length(source: Source) -> int:
    """How much of a wildcard host is spelled out: the more, the earlier it is tried (routes 3.6)."""
    return len(source.host) - source.host.count("*")


def route_bytes(route: Route, context: RouteContext) -> bytes:
    """The route as it stands inside a virtual host; a wildcard without a port of its own may be two."""
    if not route.source.wildcard or route.source.targets:
        return _field(build_route(route, context))
    expressions = authority_regexes(route.source, any_port=context.any_port)
    return b"".join(_field(build_route(route, context, authority_regex=expression)) for expression in expressions)


def internal_route_bytes(context: RouteContext, *, authenticate: bool) -> bytes:
    """The agent's own routes, as they stand at the head of every virtual host (R-8, routes 8.4)."""
    headers = [header_option(name, response_value(value)) for name, value in context.response_headers]
    matches = _INTERNAL + (_AUTHENTICATE if authenticate else ())
    return b"".join(
        _field(
            pb.Route(
                match=match,
                route=pb.RouteAction(cluster=PAGES_CLUSTER),
                typed_per_filter_config={EXT_AUTHZ: check} | dict.fromkeys(limited, AS_IT_IS),
                response_headers_to_add=headers,
            )
        )
        for match, check, limited in matches
    )


def virtual_host_bytes(name: str, internal: bytes, routes: Iterable[bytes], *, any_port: bool) -> bytes:
    """A virtual host, put together from bytes that are kept."""
    called = "catch-all" if name == CATCH_ALL else name
    head = pb.VirtualHost(name=called, domains=domains(name, any_port=any_port)).SerializeToString(deterministic=True)
    return b"".join((head, internal, *routes))


def _field(message: Message) -> bytes:
    return field_bytes(_ROUTES_FIELD, message.SerializeToString(deterministic=True))
