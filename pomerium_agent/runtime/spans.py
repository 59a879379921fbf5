"""Spans of our own: made only for traces that somebody collects, and sent in the background, never in anybody's way.

What does not fit into the queue, or cannot be sent, is dropped and counted.
"""

import asyncio
import os
import re
import ssl
from collections import deque
from collections.abc import Mapping
from time import time_ns
from typing import NamedTuple
from urllib.parse import urlsplit

import structlog
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1 import trace_pb2

from pomerium_agent.runtime.collector import FAILURES, Collector, Send, open_way, reason_of
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.metrics import Metrics
from pomerium_agent.runtime.waiting import first_of

log = structlog.get_logger(__name__)

QUEUE = 4096  # spans
LEAVING_SECONDS = 2.0  # for what is in the queue when we stop
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class Parent(NamedTuple):
    """The span that another one is part of."""

    trace_id: bytes
    span_id: bytes

    @property
    def traceparent(self) -> str:
        """As W3C Trace Context has it, of a trace that is collected."""
        return f"00-{self.trace_id.hex()}-{self.span_id.hex()}-01"

    def child(self) -> "Parent":
        """A new span of the same trace, which may be the parent of others before it is over."""
        return Parent(self.trace_id, os.urandom(8))


def parse_traceparent(text: str) -> Parent | None:
    """The caller's span, if its trace is collected."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None or text.startswith("ff") or not int(found[3], 16) & 1:
        return None
    parent = Parent(bytes.fromhex(found[1]), bytes.fromhex(found[2]))
    return parent if any(parent.trace_id) and any(parent.span_id) else None


class Spans:
    """Takes finished spans while there is a collector. `run` sends them."""

    def __init__(
        self,
        collector: Latest[Collector | None],
        tls: ssl.SSLContext,
        roots: bytes,
        *,
        metrics: Metrics | None = None,
    ) -> None:
        self.dropped = 0
        self._metrics = metrics or Metrics()
        self._collector = collector
        self._tls = tls
        self._roots = roots
        self._queue: deque[trace_pb2.Span] = deque()
        self._full = asyncio.Event()  # enough for a batch
        self._troubled = False

    @property
    def on(self) -> bool:
        """Whether anybody wants spans."""
        return self._collector.value is not None

    def root(self) -> Parent | None:
        """What the first span of a new trace is part of, which is nothing; None when that trace is not collected."""
        collector = self._collector.value
        trace = os.urandom(16)
        if collector is None or int.from_bytes(trace[8:]) >= collector.ratio * 2**64:
            return None
        return Parent(trace, b"")

    @property
    def waiting(self) -> tuple[trace_pb2.Span, ...]:
        """What has not been sent yet, oldest first."""
        return tuple(self._queue)

    def add(
        self,
        name: str,
        parent: Parent,
        began: int,
        attributes: Mapping[str, str | int | bool],
        *,
        error: str = "",
        link: Parent | None = None,
        server: bool = False,
        own: Parent | None = None,
    ) -> None:
        """A span that has just ended; `began` in nanoseconds since 1970. `link`: another trace, of the same matter.

        `own`: what its children were told that it is.
        """
        collector = self._collector.value
        if collector is None:
            return
        if len(self._queue) >= QUEUE:
            self._drop(1)
            return
        status = trace_pb2.Status.STATUS_CODE_ERROR if error else trace_pb2.Status.STATUS_CODE_UNSET
        limit = collector.value_limit
        self._queue.append(
            trace_pb2.Span(
                trace_id=parent.trace_id,
                parent_span_id=parent.span_id,
                span_id=(own or parent.child()).span_id,
                name=name,
                kind=trace_pb2.Span.SPAN_KIND_SERVER if server else trace_pb2.Span.SPAN_KIND_INTERNAL,
                start_time_unix_nano=began,
                end_time_unix_nano=max(time_ns(), began),
                attributes=[KeyValue(key=key, value=_value(value, limit)) for key, value in attributes.items()],
                links=[trace_pb2.Span.Link(trace_id=link.trace_id, span_id=link.span_id)] if link else (),
                status=trace_pb2.Status(code=status, message=error[:limit]),
            )
        )
        if len(self._queue) >= collector.batch:
            self._full.set()

    async def run(self) -> None:
        """Send until cancelled."""
        async for collector in self._collector.follow():
            if collector is None:
                self._drop_waiting()
                continue
            changed = self._another(collector)
            try:
                await first_of(changed, self._send_to(collector))
            finally:
                if self._collector.value is collector:  # we stop
                    await self._leave(collector)

    async def _another(self, collector: Collector) -> None:
        async for found in self._collector.follow():
            if found is not collector:
                return

    async def _send_to(self, collector: Collector) -> None:
        async with open_way(collector, self._tls, self._roots) as send:
            while True:
                await first_of(self._full.wait(), asyncio.sleep(collector.delay))
                self._full.clear()
                while self._queue:
                    await self._send(collector, send)

    async def _send(self, collector: Collector, send: Send) -> None:
        batch = [self._queue.popleft() for _ in range(min(collector.batch, len(self._queue)))]
        try:
            await send(_request(batch, collector))
        except FAILURES as error:
            self._drop(len(batch))
            if not self._troubled and not collector.silent:
                log.warning("spans cannot be sent", collector=urlsplit(collector.url).netloc, reason=reason_of(error))
            self._troubled = True
        except asyncio.CancelledError:  # in the middle of it: nobody knows whether they arrived
            self._drop(len(batch))
            raise
        else:
            if self._troubled and not collector.silent:
                log.info("spans are sent again", dropped=self.dropped)
            self._troubled = False

    async def _leave(self, collector: Collector) -> None:
        if not self._queue:
            return
        try:
            async with asyncio.timeout(LEAVING_SECONDS), open_way(collector, self._tls, self._roots) as send:
                while self._queue:
                    await self._send(collector, send)
        except TimeoutError:
            self._drop_waiting()

    def _drop_waiting(self) -> None:
        self._drop(len(self._queue))
        self._queue.clear()

    def _drop(self, spans: int) -> None:
        self.dropped += spans
        self._metrics.spans_dropped.inc(spans)


def _request(spans: list[trace_pb2.Span], collector: Collector) -> ExportTraceServiceRequest:
    resource = Resource(attributes=[KeyValue(key=key, value=_value(value, None)) for key, value in collector.resource])
    scope = trace_pb2.ScopeSpans(scope=InstrumentationScope(name="pomerium-agent"), spans=spans)
    return ExportTraceServiceRequest(resource_spans=[trace_pb2.ResourceSpans(resource=resource, scope_spans=[scope])])


def _value(value: str | int | bool, limit: int | None) -> AnyValue:  # a value, not a flag
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    return AnyValue(string_value=value[:limit])
