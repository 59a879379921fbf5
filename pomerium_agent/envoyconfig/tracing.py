"""What Envoy traces, and where it sends its spans (routes 7.7). Nothing of it is there while nothing is traced.

Envoy begins the trace, or goes on with the caller's, and hands it to the upstream. Its spans go to the collector
straight from it. What the agent has to know to be part of the trace is put into a header that only the two of them
see: which span it works for.
"""

from urllib.parse import urlsplit

from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value

from pomerium_agent.config.action import Upstream
from pomerium_agent.config.snapshot import Settings
from pomerium_agent.config.tracing import Target, Tracing
from pomerium_agent.config.urls import parse_endpoint
from pomerium_agent.envoyconfig.clusters import BUFFER_LIMIT, CONNECT_TIMEOUT, ClusterContext, connect, discover
from pomerium_agent.envoyconfig.protocols import PROTOCOL_OPTIONS, build_http1, build_http2
from pomerium_agent.envoyconfig.wire import any_of, duration
from pomerium_agent.pb.envoy.config.cluster.v3 import cluster_pb2
from pomerium_agent.pb.envoy.config.common.mutation_rules.v3 import mutation_rules_pb2
from pomerium_agent.pb.envoy.config.core.v3 import (
    base_pb2,
    extension_pb2,
    grpc_service_pb2,
    http_service_pb2,
    http_uri_pb2,
)
from pomerium_agent.pb.envoy.config.trace.v3 import http_tracer_pb2, opentelemetry_pb2
from pomerium_agent.pb.envoy.extensions.filters.http.header_mutation.v3 import header_mutation_pb2
from pomerium_agent.pb.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from pomerium_agent.pb.envoy.extensions.tracers.opentelemetry.resource_detectors.v3 import (
    static_config_resource_detector_pb2 as detector_pb2,
)
from pomerium_agent.pb.envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from pomerium_agent.pb.envoy.type.tracing.v3 import custom_tag_pb2
from pomerium_agent.pb.envoy.type.v3 import percent_pb2

COLLECTOR = "pomerium-traces"
TRACE_HEADER = "x-pomerium-agent-trace"  # of the request, for the agent alone: trace and span, in hexadecimal
SERVICE = "Envoy"
SHORTEST_PATH, LONGEST_PATH = 64, 32768  # characters of a tag
# Envoy would say the whole path, and queries of logins hold what nobody else may have. Of two tags of a name the later
# one counts.
_URL = "%REQ(:scheme)%://%REQ(x-envoy-original-host?:authority)%%PATH(NQ:ORIG_OR_PATH):{}%"


def build_tracing(tracing: Tracing) -> hcm_pb2.HttpConnectionManager.Tracing | None:
    """What the connection manager of visitors traces; None: nothing."""
    target = tracing.target
    if target is None:
        return None
    limit = 256 if tracing.value_limit is None else min(max(tracing.value_limit, SHORTEST_PATH), LONGEST_PATH)
    return hcm_pb2.HttpConnectionManager.Tracing(
        random_sampling=percent_pb2.Percent(value=100 * tracing.ratio),
        client_sampling=percent_pb2.Percent(value=0),  # a visitor does not choose what we collect
        verbose=True,
        spawn_upstream_span=BoolValue(value=True),
        max_path_tag_length=UInt32Value(value=limit),
        custom_tags=[custom_tag_pb2.CustomTag(tag="http.url", value=_URL.format(limit))],
        provider=http_tracer_pb2.Tracing.Http(
            name="envoy.tracers.opentelemetry", typed_config=any_of(_build_tracer(tracing, target))
        ),
    )


def _build_tracer(tracing: Tracing, target: Target) -> opentelemetry_pb2.OpenTelemetryConfig:
    built = opentelemetry_pb2.OpenTelemetryConfig(service_name=SERVICE)
    timeout = duration(target.timeout)
    if target.http:
        built.http_service.CopyFrom(
            http_service_pb2.HttpService(
                http_uri=http_uri_pb2.HttpUri(uri=target.url, cluster=COLLECTOR, timeout=timeout),
                request_headers_to_add=[
                    base_pb2.HeaderValueOption(
                        header=base_pb2.HeaderValue(key=name, value=str(value).replace("%", "%%")),
                        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
                    )
                    for name, value in target.headers
                ],
            )
        )
    else:
        built.grpc_service.CopyFrom(
            grpc_service_pb2.GrpcService(
                envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(
                    cluster_name=COLLECTOR, authority=urlsplit(target.url).netloc
                ),
                timeout=timeout,
                initial_metadata=[
                    # There Envoy knows no way to write a percent sign; the settings' faults say so.
                    base_pb2.HeaderValue(key=name, value=str(value))
                    for name, value in target.headers
                    if "%" not in str(value)
                ],
            )
        )
    if tracing.resource:
        detector = detector_pb2.StaticConfigResourceDetectorConfig(attributes=dict(tracing.resource))
        built.resource_detectors.append(
            extension_pb2.TypedExtensionConfig(
                name="envoy.tracers.opentelemetry.resource_detectors.static_config", typed_config=any_of(detector)
            )
        )
    return built


def build_collector(settings: Settings) -> tuple[cluster_pb2.Cluster, ...]:
    """Where Envoy sends its spans; empty while it traces nothing."""
    target = settings.tracing.target
    if target is None:
        return ()
    options = http_protocol_options_pb2.HttpProtocolOptions()
    if target.http:
        options.explicit_http_config.http_protocol_options.CopyFrom(build_http1())
    else:
        options.explicit_http_config.http2_protocol_options.CopyFrom(build_http2())
    built = cluster_pb2.Cluster(
        name=COLLECTOR,
        connect_timeout=duration(CONNECT_TIMEOUT),
        per_connection_buffer_limit_bytes=UInt32Value(value=BUFFER_LIMIT),
        typed_extension_protocol_options={PROTOCOL_OPTIONS: any_of(options)},
    )
    upstream = Upstream(endpoints=(parse_endpoint(target.url),), http1_only=target.http)
    discover(built, upstream, ClusterContext.of(settings))
    connect(built, upstream, alpn=("http/1.1",) if target.http else ("h2",))
    return (built,)


def build_note() -> header_mutation_pb2.HeaderMutation:
    """Tells the agent which span a question belongs to, right before it is asked."""
    value = base_pb2.HeaderValue(key=TRACE_HEADER, value="%TRACE_ID%-%SPAN_ID%")
    return _mutation(
        mutation_rules_pb2.HeaderMutation(
            append=base_pb2.HeaderValueOption(
                header=value, append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
            )
        )
    )


def build_forgetting() -> header_mutation_pb2.HeaderMutation:
    """Takes it off again: it is nothing to upstreams."""
    return _mutation(mutation_rules_pb2.HeaderMutation(remove=TRACE_HEADER))


def _mutation(change: mutation_rules_pb2.HeaderMutation) -> header_mutation_pb2.HeaderMutation:
    return header_mutation_pb2.HeaderMutation(mutations=header_mutation_pb2.Mutations(request_mutations=[change]))
