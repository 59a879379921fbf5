"""The door for those who scrape: two paths that lead to the agent, which judges them, and nowhere else (routes 7.5)."""

from collections.abc import Iterator
from datetime import timedelta

from google.protobuf.wrappers_pb2 import BoolValue

from pomerium_agent.config.snapshot import MetricsListener
from pomerium_agent.envoyconfig.agent_clusters import METRICS_CLUSTER
from pomerium_agent.envoyconfig.connection_manager import network_filter
from pomerium_agent.envoyconfig.downstream_tls import build_tls_parameters
from pomerium_agent.envoyconfig.filters import build_router
from pomerium_agent.envoyconfig.wire import any_of, by_ads, duration, text
from pomerium_agent.pb.envoy.config.core.v3 import base_pb2, protocol_pb2
from pomerium_agent.pb.envoy.config.listener.v3 import listener_components_pb2
from pomerium_agent.pb.envoy.config.route.v3 import route_components_pb2, route_pb2
from pomerium_agent.pb.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from pomerium_agent.pb.envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2

ALL_PATH = "/metrics"
ENVOY_PATH = "/metrics/envoy"
CERTIFICATE = "metrics-certificate"
CLIENT_CA = "metrics-client-ca"
ANSWER_TIMEOUT = timedelta(seconds=30)


def build_metrics() -> listener_components_pb2.Filter:
    """Everything but the two paths is 404. Envoy's admin is no upstream of it: the agent asks that for them."""
    routes = [
        route_components_pb2.Route(
            match=route_components_pb2.RouteMatch(path=path),
            route=route_components_pb2.RouteAction(cluster=METRICS_CLUSTER, timeout=duration(ANSWER_TIMEOUT)),
        )
        for path in (ALL_PATH, ENVOY_PATH)
    ]
    everything = route_components_pb2.VirtualHost(name="metrics", domains=["*"], routes=routes)
    return network_filter(
        hcm_pb2.HttpConnectionManager(
            stat_prefix="metrics",
            route_config=route_pb2.RouteConfiguration(name="metrics", virtual_hosts=[everything]),
            http_filters=[build_router()],
            use_remote_address=BoolValue(value=True),
            request_timeout=duration(timedelta(seconds=30)),
            common_http_protocol_options=protocol_pb2.HttpProtocolOptions(
                idle_timeout=duration(timedelta(minutes=5)),
                headers_with_underscores_action=protocol_pb2.HttpProtocolOptions.REJECT_REQUEST,
            ),
        )
    )


def build_metrics_tls(metrics: MetricsListener) -> base_pb2.TransportSocket | None:
    """TLS where there is a certificate; with an authority for clients, none comes in without a good one."""
    if metrics.certificate is None:
        return None
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=tls_pb2.CommonTlsContext(
            tls_params=build_tls_parameters(),
            alpn_protocols=["h2", "http/1.1"],
            tls_certificate_sds_secret_configs=[secret_pb2.SdsSecretConfig(name=CERTIFICATE, sds_config=by_ads())],
        ),
        require_client_certificate=BoolValue(value=metrics.client_ca is not None),
    )
    if metrics.client_ca is not None:
        context.common_tls_context.validation_context_sds_secret_config.CopyFrom(
            secret_pb2.SdsSecretConfig(name=CLIENT_CA, sds_config=by_ads())
        )
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=any_of(context))


def build_metrics_secrets(metrics: MetricsListener) -> Iterator[secret_pb2.Secret]:
    """What that TLS refers to, by names that a renewal does not change."""
    if metrics.certificate is None:
        return
    yield secret_pb2.Secret(
        name=CERTIFICATE,
        tls_certificate=common_pb2.TlsCertificate(
            certificate_chain=text(metrics.certificate.chain), private_key=text(metrics.certificate.key)
        ),
    )
    if metrics.client_ca is not None:
        yield secret_pb2.Secret(
            name=CLIENT_CA,
            validation_context=common_pb2.CertificateValidationContext(trusted_ca=text(metrics.client_ca)),
        )
