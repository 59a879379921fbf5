"""Metrics, sent when the control plane asks for them and never otherwise (zero link 14)."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.errors import Retryable
from pomerium_agent.pb.pomerium import connect_pb2
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.zero.active_users import stored_counts
from pomerium_agent.zero.connect import TelemetryRequests
from pomerium_agent.zero.export import MAX_BYTES, METRICS, Exporter, size_of
from pomerium_agent.zero.otlp_metrics import CORE, ENVOY, families, user_gauges
from pomerium_agent.zero.report import resource_of
from pomerium_agent.zero.sent import Sent

log = structlog.get_logger(__name__)

Scrape = Callable[[], Awaitable[str]]  # the text format of Prometheus; raises EnvoyUnavailable


class Telemetry:
    """Answers each request with one export (Z-55). One that fails is reported, and not tried again.

    `leading` holds the store of records while this replica has the lease, and None otherwise (Z-56).
    """

    def __init__(
        self, exporter: Exporter, *,
        sent: Sent, envoy: Latest[Scrape | None], leading: Latest[Backend | None], health: Health, clock: Clock,
    ) -> None:  # fmt: skip
        self._exporter = exporter
        self._sent = sent
        self._envoy = envoy
        self._leading = leading
        self._health = health
        self._clock = clock
        self._began = clock.now()

    async def run(self, requests: TelemetryRequests) -> None:
        """Answer until cancelled; those that come meanwhile wait in the queue, which the stream never does (Z-58)."""
        while True:
            await self.answer(await requests.get())

    async def answer(self, request: connect_pb2.TelemetryRequest) -> None:
        """Collect what is asked for, and send it."""
        scopes = await asyncio.to_thread(within, await self._collect(request), MAX_BYTES)
        try:
            await self._export(scopes)
        except Retryable as error:
            self._health.failed(Check.ZERO_TELEMETRY, str(error))
        else:
            self._sent.exported(scopes, self._clock.now())
            self._health.running(Check.ZERO_TELEMETRY)

    async def _collect(self, request: connect_pb2.TelemetryRequest) -> Sequence[metrics_pb2.ScopeMetrics]:
        """One scope per producer that is asked; one that fails contributes nothing, and the others all the same."""
        scopes = []
        backend = self._leading.value
        if request.HasField("session_analytics") and backend is not None:
            try:
                scopes.append(user_gauges(await stored_counts(backend), self._clock.now()))
            except Retryable as error:
                log.warning("telemetry without active users", reason=str(error))
        scrape = self._envoy.value
        if request.HasField("envoy_metrics") and request.envoy_metrics.metrics:
            wanted = request.envoy_metrics
            try:
                text = await scrape() if scrape is not None else ""
            except Retryable as error:
                log.warning("telemetry without envoy", reason=str(error))
            else:
                scopes.append(await self._convert(ENVOY, text, wanted.metrics, wanted.labels))
        if request.HasField("pomerium_metrics") and request.pomerium_metrics.metrics:
            text = self._sent.metrics.text().decode()
            scopes.append(await self._convert(CORE, text, request.pomerium_metrics.metrics, ()))
        return scopes

    async def _convert(
        self, scope: str, text: str, names: Sequence[str], labels: Sequence[str]
    ) -> metrics_pb2.ScopeMetrics:
        def convert() -> metrics_pb2.ScopeMetrics:
            return families(scope, text, names, labels, since=self._began, now=self._clock.now())

        return await asyncio.to_thread(convert)

    async def _export(self, scopes: Sequence[metrics_pb2.ScopeMetrics]) -> None:
        resource = resource_of(self._exporter.identity)
        request = metrics_service_pb2.ExportMetricsServiceRequest(
            resource_metrics=[metrics_pb2.ResourceMetrics(resource=resource, scope_metrics=scopes)]
        )
        async with self._exporter.open() as channel:
            await self._exporter.send(channel, METRICS, request)


def within(scopes: Sequence[metrics_pb2.ScopeMetrics], limit: int) -> list[metrics_pb2.ScopeMetrics]:
    """The scopes with as many of their series, from the first on, as fit into `limit` bytes together.

    The small ones are served first, so that a long one does not push them out.
    """
    fitting = list(scopes)
    for place in sorted(range(len(scopes)), key=lambda place: scopes[place].ByteSize()):
        fitting[place] = _cut(scopes[place], limit)
        limit -= size_of(fitting[place])
    return fitting


def _cut(scope: metrics_pb2.ScopeMetrics, limit: int) -> metrics_pb2.ScopeMetrics:
    size = 0
    for number, metric in enumerate(scope.metrics):
        size += size_of(metric)
        if size > limit:
            log.warning("series left out of telemetry", scope=scope.scope.name, left_out=len(scope.metrics) - number)
            return metrics_pb2.ScopeMetrics(scope=scope.scope, metrics=scope.metrics[:number])
    return scope
