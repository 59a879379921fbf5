"""How names of upstreams become addresses (R-26)."""

from google.protobuf.wrappers_pb2 import UInt32Value, UInt64Value

from pomerium_agent.config.snapshot import DnsOptions
from pomerium_agent.envoyconfig.wire import any_of, duration
from pomerium_agent.pb.envoy.config.core.v3 import extension_pb2, resolver_pb2
from pomerium_agent.pb.envoy.extensions.clusters.dns.v3 import dns_cluster_pb2
from pomerium_agent.pb.envoy.extensions.network.dns_resolver.cares.v3 import cares_dns_resolver_pb2


def build_dns(dns: DnsOptions, *, v4_only: bool) -> dns_cluster_pb2.DnsCluster:
    """How the names of one cluster are resolved.

    Only settings that differ from the bootstrap's resolver give a cluster a resolver of its own: thousands of
    clusters share one otherwise.
    """
    family = "V4_ONLY" if v4_only else (dns.lookup_family or "V4_PREFERRED")
    built = dns_cluster_pb2.DnsCluster(respect_dns_ttl=True, dns_lookup_family=family)
    if dns.refresh_rate is not None:
        built.dns_refresh_rate.CopyFrom(duration(dns.refresh_rate))
    if dns.failure_refresh_rate is not None:
        built.dns_failure_refresh_rate.base_interval.CopyFrom(duration(dns.failure_refresh_rate))
    if _resolver_options(dns) != _resolver_options(DnsOptions()):
        built.typed_dns_resolver_config.CopyFrom(_build_resolver(dns))
    return built


# A name server that does not answer must not keep other routes waiting: on a fresh start Envoy opens its listeners
# only when every upstream's name was asked for. With c-ares' own patience that takes two minutes, with this about ten
# seconds; Envoy asks again every few seconds anyway.
QUERY_TIMEOUT_SECONDS = 2
QUERY_TRIES = 2


def _resolver_options(dns: DnsOptions) -> tuple[object, ...]:
    return (dns.udp_max_queries, dns.use_tcp, dns.query_tries, dns.query_timeout)


def _build_resolver(dns: DnsOptions) -> extension_pb2.TypedExtensionConfig:
    """The resolver, always c-ares."""
    config = cares_dns_resolver_pb2.CaresDnsResolverConfig(
        udp_max_queries=UInt32Value(value=dns.udp_max_queries),
        dns_resolver_options=resolver_pb2.DnsResolverOptions(use_tcp_for_dns_lookups=dns.use_tcp),
    )
    tries = QUERY_TRIES if dns.query_tries is None else dns.query_tries
    seconds = QUERY_TIMEOUT_SECONDS if dns.query_timeout is None else int(dns.query_timeout.total_seconds())
    config.query_tries.CopyFrom(UInt32Value(value=tries))
    config.query_timeout_seconds.CopyFrom(UInt64Value(value=seconds))
    return extension_pb2.TypedExtensionConfig(name="envoy.network.dns_resolver.cares", typed_config=any_of(config))
