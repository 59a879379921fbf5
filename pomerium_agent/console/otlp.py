"""The OTLP receivers (zero link 13.3, 14): health reports come as spans, metrics when they were asked for."""

import asyncio
from collections.abc import Iterable

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

from pomerium_agent.console.connect import instance_of
from pomerium_agent.console.gate import Context, Gate, metadata
from pomerium_agent.console.sightings import HealthReport, Sighting
from pomerium_agent.console.telemetry import save_telemetry

SCOPE = "pomerium-managed-core"
TRACES = "opentelemetry.proto.collector.trace.v1.TraceService"
METRICS = "opentelemetry.proto.collector.metrics.v1.MetricsService"


class Receiver:
    """Keeps the latest report of every check of every replica."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._store = gate.store
        self._clock = gate.clock

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Both services, made by hand: the stubs of opentelemetry-proto carry no types."""
        return (
            grpc.method_handlers_generic_handler(
                TRACES,
                {
                    "Export": grpc.unary_unary_rpc_method_handler(
                        self.export_spans,
                        request_deserializer=trace_service_pb2.ExportTraceServiceRequest.FromString,
                        response_serializer=trace_service_pb2.ExportTraceServiceResponse.SerializeToString,
                    )
                },
            ),
            grpc.method_handlers_generic_handler(
                METRICS,
                {
                    "Export": grpc.unary_unary_rpc_method_handler(
                        self.export_metrics,
                        request_deserializer=metrics_service_pb2.ExportMetricsServiceRequest.FromString,
                        response_serializer=metrics_service_pb2.ExportMetricsServiceResponse.SerializeToString,
                    )
                },
            ),
        )

    async def export_spans(
        self,
        request: trace_service_pb2.ExportTraceServiceRequest,
        context: Context,
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        """Each span is one check at one moment (Z-53)."""
        bearer = await self._gate.admit_call(context)
        given = metadata(context)
        for spans in request.resource_spans:
            replica = _replica(bearer.cluster_id, spans.resource, given)
            await asyncio.to_thread(self._store.sightings.reported, replica, list(_reports(spans)), self._clock.now())
        return trace_service_pb2.ExportTraceServiceResponse()

    async def export_metrics(
        self,
        request: metrics_service_pb2.ExportMetricsServiceRequest,
        context: Context,
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        """The answer to a telemetry request: of each replica the latest is kept (Z-55)."""
        bearer = await self._gate.admit_call(context)
        given = metadata(context)
        for each in request.resource_metrics:
            replica = _replica(bearer.cluster_id, each.resource, given)
            now = self._clock.now()
            await asyncio.to_thread(self._store.sightings.reported, replica, (), now)
            await asyncio.to_thread(save_telemetry, self._store.database, replica, each.scope_metrics, now)
        return metrics_service_pb2.ExportMetricsServiceResponse()


def _replica(cluster_id: str, resource: Resource, given: dict[str, str]) -> Sighting:
    attributes = _texts(resource.attributes)
    hostname = attributes.get("host.name", "")
    return Sighting(
        cluster_id=cluster_id,
        instance=attributes.get("service.instance.id") or instance_of(given, hostname),
        hostname=hostname,
        version=attributes.get("service.version", ""),
    ).cut()


def _reports(spans: ResourceSpans) -> Iterable[HealthReport]:
    for scope in spans.scope_spans:
        if scope.scope.name == SCOPE:
            for span in scope.spans:
                if span.status.code != Status.STATUS_CODE_UNSET:
                    yield _report(span)


def _report(span: Span) -> HealthReport:
    failed = span.status.code == Status.STATUS_CODE_ERROR
    return HealthReport(
        check=span.name,
        error=(span.status.message or "an error without a text") if failed else "",
        attributes=_texts(span.attributes),
        time_ns=min(span.end_time_unix_nano or span.start_time_unix_nano, 2**63 - 1),
    )


def _texts(attributes: Iterable[KeyValue]) -> dict[str, str]:
    return {each.key: each.value.string_value for each in attributes if each.value.HasField("string_value")}
