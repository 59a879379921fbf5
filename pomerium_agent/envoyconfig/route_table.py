"""The one RouteConfiguration, joined from kept bytes, so that a changed route costs one virtual host (R-31).

A build looks up every route by its key and every host by its name and the keys of its routes; only what it does
not find it makes. The version of the table is a hash over the hashes of its hosts: as good as a hash of the
whole, and 10,000 hosts cost nothing to hash again.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from pomerium_agent.config.snapshot import ConfigSnapshot, Route
from pomerium_agent.envoyconfig.headers import REPROXY_HEADERS, header_option, response_value
from pomerium_agent.envoyconfig.resources import Resource
from pomerium_agent.envoyconfig.route import RouteContext
from pomerium_agent.envoyconfig.virtual_hosts import (
    CATCH_ALL,
    has_port,
    host_names,
    internal_route_bytes,
    literal_length,
    route_bytes,
    virtual_host_bytes,
)
from pomerium_agent.envoyconfig.wire import field_bytes
from pomerium_agent.pb.envoy.config.route.v3 import route_pb2

MAIN_ROUTES = "main"
MAX_DIRECT_RESPONSE_BYTES = 1 << 20
_HOSTS_FIELD = route_pb2.RouteConfiguration.VIRTUAL_HOSTS_FIELD_NUMBER


@dataclass(frozen=True, slots=True)
class _KeptRoute:
    """A route as it stands inside its virtual hosts, and which those are."""

    key: str
    hosts: tuple[str, ...]
    bare_hosts: tuple[str, ...]  # which are there because of it, without it
    literal_length: int
    body: bytes


@dataclass(frozen=True, slots=True)
class _KeptHost:
    """A virtual host as it stands inside the table, and the hash of that."""

    body: bytes
    digest: bytes


@dataclass(slots=True)
class TableCache:
    """What the last build of the table made. What a build does not use is forgotten."""

    context: RouteContext | None = None
    routes: dict[str, _KeptRoute] = field(default_factory=dict)  # by route key
    hosts: dict[tuple[str, ...], _KeptHost] = field(default_factory=dict)  # by name and route keys


def build_route_table(snapshot: ConfigSnapshot, cache: TableCache) -> Resource:
    """All hosts with all routes, as one resource (routes 3)."""
    context = RouteContext.of(snapshot)
    if cache.context != context:
        cache.context, cache.routes, cache.hosts = context, {}, {}
    login = _login_hosts(snapshot.settings.hosts_of_authenticate, context)
    routes = {route.key: cache.routes.get(route.key) or _keep(route, context) for route in snapshot.routes}
    hosts: dict[tuple[str, ...], _KeptHost] = {}
    plain = internal_route_bytes(context, authenticate=False)
    on_login = internal_route_bytes(context, authenticate=True) if login else b""
    for name, members in _by_host((routes[route.key] for route in snapshot.routes), login):
        internal = on_login if name in login else plain
        # Whether it is a login host is part of what it is, though not of its name.
        key = (name, "login" if name in login else "", *[member.key for member in members])
        hosts[key] = cache.hosts.get(key) or _build_host(name, internal, members, context)
    cache.routes, cache.hosts = routes, hosts
    head, tail = _table_fields(context)
    total = hashlib.sha256(head + tail)
    for host in hosts.values():
        total.update(host.digest)
    body = b"".join((head, *[host.body for host in hosts.values()], tail))
    return Resource(MAIN_ROUTES, total.hexdigest()[:32], body)


def _keep(route: Route, context: RouteContext) -> _KeptRoute:
    return _KeptRoute(
        key=route.key,
        hosts=host_names(route.source, any_port=context.any_port),
        bare_hosts=_with_port((route.downstream_name,), context) if route.downstream_name else (),
        literal_length=literal_length(route.source),
        body=route_bytes(route, context),
    )


def _by_host(routes: Iterable[_KeptRoute], login: Iterable[str]) -> Iterator[tuple[str, list[_KeptRoute]]]:
    """Every virtual host with its routes in matching order, by name; the catch-all is last and always there.

    Grouping by name is what makes domains unique, since they follow from the name alone (R-6).
    """
    hosts: dict[str, list[_KeptRoute]] = {name: [] for name in login}
    wild: list[_KeptRoute] = []
    for route in routes:
        for name in route.hosts:
            if name in hosts:
                hosts[name].append(route)
            else:
                hosts[name] = [route]
        if not route.hosts:
            wild.append(route)
        for name in route.bare_hosts:
            hosts.setdefault(name, [])
    for name in sorted(hosts):
        yield name, hosts[name]
    # The wildcard that spells out most is tried first; among equals the configured order stays.
    yield CATCH_ALL, sorted(wild, key=lambda route: -route.literal_length)


def _build_host(name: str, internal: bytes, members: Iterable[_KeptRoute], context: RouteContext) -> _KeptHost:
    bodies = (member.body for member in members)
    body = field_bytes(_HOSTS_FIELD, virtual_host_bytes(name, internal, bodies, any_port=context.any_port))
    return _KeptHost(body, hashlib.sha256(body).digest())


def _login_hosts(hosts: Iterable[str], context: RouteContext) -> frozenset[str]:
    """The virtual hosts on which the login service answers (routes 8.4)."""
    return frozenset(_with_port((name.lower() for name in hosts), context))


def _with_port(names: Iterable[str], context: RouteContext) -> tuple[str, ...]:
    """Where ports are matched exactly, a host is also there with the one that a browser would use (routes 3.2)."""
    found = tuple(names)
    if context.any_port:
        return found
    return (*found, *(f"{name}:443" for name in found if not has_port(name)))


def _table_fields(context: RouteContext) -> tuple[bytes, bytes]:
    """The fields of the table before and after its hosts."""
    tail = route_pb2.RouteConfiguration(
        # What holds for every route is said once: a table of 10,000 hosts is half as large for it.
        request_headers_to_remove=REPROXY_HEADERS,
        response_headers_to_add=[
            header_option(name, response_value(value)) for name, value in context.table_response_headers
        ],
        most_specific_header_mutations_wins=True,
        validate_clusters=BoolValue(value=False),
        max_direct_response_body_size_bytes=UInt32Value(value=MAX_DIRECT_RESPONSE_BYTES),
    )
    return (
        route_pb2.RouteConfiguration(name=MAIN_ROUTES).SerializeToString(),
        tail.SerializeToString(deterministic=True),
    )
