"""Health reports on their way to the control plane: each one a finished span (zero link 13.3)."""

import asyncio
import os
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import structlog
from grpc import aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from pomerium_agent.errors import Retryable
from pomerium_agent.runtime.backoff import Backoff, patient
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Health, Report, Status
from pomerium_agent.zero.export import MAX_BYTES, TRACES, Exporter, size_of
from pomerium_agent.zero.identity import COMPONENTS, UNKNOWN_HOST, Identity
from pomerium_agent.zero.sent import Sent
from pomerium_agent.zero.text import clean_text

log = structlog.get_logger(__name__)

SERVICE_NAME = SCOPE_NAME = "pomerium-managed-core"
BATCH_SPANS = 512
CUT_CHARACTERS = 10_000  # of the error of a report that fits into no request
QUEUE_SPANS = 2048
BATCH_DELAY = 1.0
FLUSH_BUDGET = 3.0


@dataclass(frozen=True, slots=True)
class _Noted:
    """A report, and when it was made."""

    report: Report
    at: datetime


class Reporter:
    """Sends every change of health, oldest first, and on start the latest state of every check (Z-52, Z-54).

    What cannot be sent waits in a bounded queue, of which the oldest goes first when it is full. Telemetry is
    never a reason for anything else to stop: trouble is logged once, and tried again with backoff.
    """

    def __init__(
        self,
        exporter: Exporter,
        *,
        health: Health,
        clock: Clock,
        sent: Sent | None = None,
        queue_spans: int = QUEUE_SPANS,
        batch_delay: float = BATCH_DELAY,
    ) -> None:
        self._exporter = exporter
        self._health = health
        self._clock = clock
        self._sent = sent or Sent()
        self._batch_delay = batch_delay
        self._queue: deque[_Noted] = deque(maxlen=queue_spans)
        self._latest: dict[str, Report] = {}
        self._noted = asyncio.Event()
        self._in_trouble = False

    async def run(self, backoff: Backoff | None = None) -> None:
        """Note and send until cancelled; what is left then is for `flush`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._note())
            group.create_task(self._send(backoff or patient()))

    async def flush(self, budget: float = FLUSH_BUDGET) -> None:
        """Send what is still here, within `budget` seconds; for the time after `run` (Z-64)."""
        for check, report in self._health.reports.items():  # said last, and perhaps not noted yet
            if self._latest.get(check) != report:
                self._enqueue(report)
        if not self._queue:
            return
        try:
            async with asyncio.timeout(budget), self._exporter.open() as channel:
                while self._queue:
                    await self._export_batch(channel)
        except (Retryable, TimeoutError) as error:
            log.warning("reports not sent", left=len(self._queue), reason=str(error) or "no time left")

    async def _note(self) -> None:
        async for report in self._health.follow():
            self._enqueue(report)

    def _enqueue(self, report: Report) -> None:
        self._latest[report.check] = report
        if report.error or report.status is Status.RUNNING:  # no span for the rest (Z-53)
            self._queue.append(_Noted(report, self._clock.now()))
            self._noted.set()

    async def _send(self, backoff: Backoff) -> None:
        while True:
            try:
                async with self._exporter.open() as channel:
                    while True:
                        await self._noted.wait()
                        await self._clock.sleep(self._batch_delay)  # what happens together travels together
                        while self._queue:
                            await self._export_batch(channel)
                            backoff.reset()
                            self._note_success()
                        self._noted.clear()
            except Retryable as error:
                self._note_trouble(error)
                await self._clock.sleep(backoff.next())

    async def _export_batch(self, channel: aio.Channel) -> None:
        """Send the oldest reports; they leave the queue only when they have arrived."""
        spans = batch_spans(self._queue)
        batch = tuple(islice(self._queue, len(spans)))
        await self._exporter.send(channel, TRACES, export_request(spans, self._exporter.identity))
        for noted in batch:
            self._sent.health(noted.report, noted.at, self._clock.now())
        sent = set(map(id, batch))
        with suppress(IndexError):  # the queue may have dropped some of them meanwhile
            while id(self._queue[0]) in sent:
                self._queue.popleft()

    def _note_trouble(self, error: Exception) -> None:
        if not self._in_trouble:
            log.warning("reports cannot be sent", reason=str(error))
        self._in_trouble = True

    def _note_success(self) -> None:
        if self._in_trouble:
            log.info("reports are sent again")
        self._in_trouble = False


def batch_spans(queue: Iterable[_Noted]) -> list[trace_pb2.Span]:
    """One finished span for each of the oldest reports (Z-53): as many as one request may carry, and one at least."""
    spans, size = list[trace_pb2.Span](), 0
    for noted in islice(queue, BATCH_SPANS):
        span = span_of(noted.report, noted.at)
        size += size_of(span)
        if size > MAX_BYTES and spans:
            break
        spans.append(span if size <= MAX_BYTES else _cut(span))
    return spans


def _cut(span: trace_pb2.Span) -> trace_pb2.Span:
    """The same, small enough for any server; tried whole, it would be refused for ever."""
    log.warning("report cut", check=span.name[:100], bytes=span.ByteSize())
    short = trace_pb2.Span()
    short.CopyFrom(span)
    del short.attributes[:]
    short.name, short.status.message = span.name[:CUT_CHARACTERS], span.status.message[:CUT_CHARACTERS]
    return short


def span_of(report: Report, at: datetime) -> trace_pb2.Span:
    """The span of one report: named as its check, OK or ERROR, always of a trace of its own."""
    moment = int(at.timestamp() * 1_000_000) * 1000
    code = trace_pb2.Status.STATUS_CODE_ERROR if report.error else trace_pb2.Status.STATUS_CODE_OK
    return trace_pb2.Span(
        trace_id=os.urandom(16),
        span_id=os.urandom(8),
        flags=1,  # sampled
        name=clean_text(report.check),
        kind=trace_pb2.Span.SPAN_KIND_INTERNAL,
        start_time_unix_nano=moment,
        end_time_unix_nano=moment,
        attributes=_attributes(report.attributes.items()),
        status=trace_pb2.Status(code=code, message=clean_text(report.error)),
    )


def export_request(spans: Iterable[trace_pb2.Span], identity: Identity) -> trace_service_pb2.ExportTraceServiceRequest:
    """The request that carries `spans` of this replica."""
    scope = trace_pb2.ScopeSpans(scope=common_pb2.InstrumentationScope(name=SCOPE_NAME), spans=spans)
    return trace_service_pb2.ExportTraceServiceRequest(
        resource_spans=[trace_pb2.ResourceSpans(resource=resource_of(identity), scope_spans=[scope])]
    )


def resource_of(identity: Identity) -> resource_pb2.Resource:
    """Who reports: the attributes of zero link 13.3, and the instance, which tells replicas on one host apart."""
    attributes = {
        "service.name": SERVICE_NAME,
        "service.version": identity.version,
        "service.instance.id": identity.instance,
        "pomerium.envoy.version": identity.envoy_version,
    }
    if identity.hostname != UNKNOWN_HOST:
        attributes["host.name"] = identity.hostname
    attributes |= {f"pomerium.{component}.version": version for component, version in COMPONENTS.items()}
    return resource_pb2.Resource(attributes=_attributes(attributes.items()))


def _attributes(pairs: Iterable[tuple[str, str]]) -> list[common_pb2.KeyValue]:
    return [
        common_pb2.KeyValue(key=clean_text(key), value=common_pb2.AnyValue(string_value=clean_text(value)))
        for key, value in pairs
    ]
