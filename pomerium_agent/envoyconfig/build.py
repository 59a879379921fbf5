"""From a configuration snapshot to everything Envoy is offered, doing only the work that a change asks for (R-31)."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from pomerium_agent.config.snapshot import ConfigSnapshot, Forward, Route
from pomerium_agent.envoyconfig.agent_clusters import build_agent_clusters
from pomerium_agent.envoyconfig.clusters import ClusterContext, build_route_cluster
from pomerium_agent.envoyconfig.connection_manager import MAIN_ROUTES
from pomerium_agent.envoyconfig.downstream_tls import build_certificates
from pomerium_agent.envoyconfig.listeners import build_listeners
from pomerium_agent.envoyconfig.local import LocalAddresses
from pomerium_agent.envoyconfig.resources import (
    CLUSTER,
    LISTENER,
    ROUTES,
    SECRET,
    EnvoyResources,
    Resource,
    by_name,
    resource,
)
from pomerium_agent.envoyconfig.route import RouteContext
from pomerium_agent.envoyconfig.upstream_tls import build_system_ca
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

MAX_DIRECT_RESPONSE_BYTES = 1 << 20
_HOSTS_FIELD = route_pb2.RouteConfiguration.VIRTUAL_HOSTS_FIELD_NUMBER


@dataclass(frozen=True, slots=True)
class _Host:
    """One virtual host as it stands inside the route table, and the hash of that."""

    body: bytes
    digest: bytes


@dataclass(slots=True)
class BuildCache:
    """What the last build made, so that the next one makes only what changed.

    It belongs to one caller, who builds one snapshot after the other. What a build did not use is
    forgotten, so the cache is never larger than the configuration.
    """

    route_context: RouteContext | None = None
    routes: dict[str, bytes] = field(default_factory=dict)  # by route key
    hosts: dict[tuple[str, ...], _Host] = field(default_factory=dict)  # by name and route keys
    cluster_context: ClusterContext | None = None
    clusters: dict[str, Resource] = field(default_factory=dict)  # by route key


def build_resources(snapshot: ConfigSnapshot, local: LocalAddresses, cache: BuildCache | None = None) -> EnvoyResources:
    """Everything Envoy is offered for `snapshot`. Pure but for the cache, which changes only the cost.

    Equal snapshots give equal bytes in every process, so nothing is sent again after a restart of the agent.
    """
    cache = BuildCache() if cache is None else cache
    settings = snapshot.settings
    roots = (
        local.system_ca
        if not settings.certificate_authority
        else f"{local.system_ca}\n{settings.certificate_authority}"
    )
    secrets = [build_system_ca(roots)]
    if not settings.insecure_server:
        secrets += build_certificates(settings.certificates)
    agent = [resource(cluster.name, cluster) for cluster in build_agent_clusters(local, settings)]
    return EnvoyResources(
        MappingProxyType(
            {
                CLUSTER: by_name((*agent, *_clusters(snapshot, cache))),
                LISTENER: by_name(resource(each.name, each) for each in build_listeners(settings, local)),
                ROUTES: by_name((_route_table(snapshot, cache),)),
                SECRET: by_name(resource(secret.name, secret) for secret in secrets),
            }
        )
    )


def _clusters(snapshot: ConfigSnapshot, cache: BuildCache) -> Iterable[Resource]:
    context = ClusterContext.of(snapshot.settings)
    kept = cache.clusters if cache.cluster_context == context else {}
    used: dict[str, Resource] = {}
    for route in snapshot.routes:
        if isinstance(route.action, Forward):
            found = kept.get(route.key)
            if found is None:
                cluster = build_route_cluster(route, route.action, context)
                found = resource(cluster.name, cluster)
            used[route.key] = found
    cache.cluster_context, cache.clusters = context, used
    return used.values()


def _route_table(snapshot: ConfigSnapshot, cache: BuildCache) -> Resource:
    """The one RouteConfiguration, joined from the bytes of its hosts.

    Its version is a hash over the hashes of its parts: as good as a hash of the whole, and 10,000 hosts cost
    nothing to hash again.
    """
    context = RouteContext.of(snapshot.settings)
    same = cache.route_context == context
    kept_routes, kept_hosts = (cache.routes, cache.hosts) if same else ({}, {})
    built = _Table(context, kept_routes, kept_hosts, _login_hosts(snapshot.settings.hosts_of_authenticate, context))
    hosts = [built.host(name, routes) for name, routes in _by_host(snapshot.routes, built.authenticate, context)]
    cache.route_context, cache.routes, cache.hosts = context, built.routes, built.hosts
    head, tail = _table_fields()
    total = hashlib.sha256(head + tail)
    for host in hosts:
        total.update(host.digest)
    return Resource(MAIN_ROUTES, total.hexdigest()[:32], b"".join((head, *(host.body for host in hosts), tail)))


def _login_hosts(hosts: Iterable[str], context: RouteContext) -> frozenset[str]:
    """The virtual hosts on which the login service answers."""
    names = [name.lower() for name in hosts]
    if not context.any_port:
        names += [f"{name}:443" for name in names if not has_port(name)]
    return frozenset(names)


def _table_fields() -> tuple[bytes, bytes]:
    """The fields of the table before and after its hosts."""
    tail = route_pb2.RouteConfiguration(
        validate_clusters=BoolValue(value=False),
        max_direct_response_body_size_bytes=UInt32Value(value=MAX_DIRECT_RESPONSE_BYTES),
    )
    return route_pb2.RouteConfiguration(name=MAIN_ROUTES).SerializeToString(), tail.SerializeToString(
        deterministic=True
    )


def _by_host(
    routes: Iterable[Route], authenticate: Iterable[str], context: RouteContext
) -> Iterator[tuple[str, list[Route]]]:
    """Every virtual host with its routes in matching order, by name; the catch-all is last and always there.

    Grouping by name is what makes names and domains unique: a domain follows from its host's name alone.
    """
    hosts: dict[str, list[Route]] = {name: [] for name in authenticate}
    wild: list[Route] = []
    for route in routes:
        names = host_names(route.source, any_port=context.any_port)
        for name in names:
            hosts.setdefault(name, []).append(route)
        if not names:
            wild.append(route)
    yield from sorted(hosts.items())
    yield CATCH_ALL, sorted(wild, key=lambda route: -literal_length(route.source))


class _Table:
    """Virtual hosts made from what is kept; remembers what was used."""

    def __init__(
        self,
        context: RouteContext,
        kept_routes: Mapping[str, bytes],
        kept_hosts: Mapping[tuple[str, ...], _Host],
        authenticate: frozenset[str],
    ) -> None:
        self.routes: dict[str, bytes] = {}
        self.hosts: dict[tuple[str, ...], _Host] = {}
        self.authenticate = authenticate
        self._context = context
        self._kept_routes = kept_routes
        self._kept_hosts = kept_hosts
        self._internal = internal_route_bytes(context, authenticate=False)
        self._login = internal_route_bytes(context, authenticate=True)

    def host(self, name: str, routes: Iterable[Route]) -> _Host:
        """The virtual host `name` holding `routes` after the agent's own."""
        key = (name, "login" if name in self.authenticate else "", *(route.key for route in routes))
        found = self._kept_hosts.get(key)
        bodies = [self._route(route) for route in routes]
        if found is None:
            found = self._build(name, bodies)
        self.hosts[key] = found
        return found

    def _build(self, name: str, bodies: Iterable[bytes]) -> _Host:
        internal = self._login if name in self.authenticate else self._internal
        body = field_bytes(_HOSTS_FIELD, virtual_host_bytes(name, internal, bodies, any_port=self._context.any_port))
        return _Host(body, hashlib.sha256(body).digest())

    def _route(self, route: Route) -> bytes:
        found = self.routes.get(route.key)
        if found is None:
            found = self._kept_routes.get(route.key)
            if found is None:
                found = route_bytes(route, self._context)
            self.routes[route.key] = found
        return found
