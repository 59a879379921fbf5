"""From a configuration snapshot to everything Envoy is offered, doing only the work that a change asks for (R-31)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from types import MappingProxyType

from pomerium_agent.config.action import Forward
from pomerium_agent.config.http3 import serves_http3
from pomerium_agent.config.snapshot import ConfigSnapshot
from pomerium_agent.config.source import Kind
from pomerium_agent.envoyconfig.agent_clusters import build_agent_clusters
from pomerium_agent.envoyconfig.client_certificates import Asking, asking, build_client_ca
from pomerium_agent.envoyconfig.clusters import ClusterContext, build_route_cluster
from pomerium_agent.envoyconfig.connection_manager import Door
from pomerium_agent.envoyconfig.downstream_tls import build_certificates
from pomerium_agent.envoyconfig.listeners import build_listeners
from pomerium_agent.envoyconfig.local import LocalAddresses
from pomerium_agent.envoyconfig.metrics import build_metrics_secrets
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
from pomerium_agent.envoyconfig.route_table import TableCache, build_route_table
from pomerium_agent.envoyconfig.tracing import build_collector
from pomerium_agent.envoyconfig.upstream_tls import build_system_ca


@dataclass(slots=True)
class BuildCache:
    """What the last build made, so that the next one makes only what changed.

    It belongs to one caller, who builds one snapshot after the other. What a build did not use is
    forgotten, so the cache is never larger than the configuration.
    """

    table: TableCache = field(default_factory=TableCache)
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
    asked = asking(snapshot)
    if asked is not Asking.NOT:
        secrets.append(build_client_ca(snapshot))
    if settings.metrics is not None and local.metrics_socket:
        secrets += build_metrics_secrets(settings.metrics)
    door = Door(
        asked=asked,
        http3=serves_http3(settings),
        extended_connect=any(route.source.kind is Kind.UDP for route in snapshot.routes),
    )
    agent = [resource(cluster.name, cluster) for cluster in build_agent_clusters(local, settings)]
    collector = [resource(cluster.name, cluster) for cluster in build_collector(settings)]
    return EnvoyResources(
        MappingProxyType(
            {
                CLUSTER: by_name((*agent, *collector, *_clusters(snapshot, cache))),
                LISTENER: by_name(resource(each.name, each) for each in build_listeners(settings, local, door)),
                ROUTES: by_name((build_route_table(snapshot, cache.table),)),
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
