"""Spans leave in the background, or not at all (routes 7.7)."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import time_ns

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pomerium_agent.runtime.collector import Collector
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.metrics import Metrics
from pomerium_agent.runtime.spans import QUEUE, Parent, Spans, parse_traceparent

PARENT = Parent(b"t" * 16, b"s" * 8)


class Receiver:
    def __init__(self) -> None:
        self.names: list[str] = []
        self.batches: list[int] = []
        self.status = 200
        self.answers = asyncio.Event()
        self.answers.set()
        self.news = asyncio.Condition()
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        said = ExportTraceServiceRequest.FromString(await request.read())
        spans = said.resource_spans[0].scope_spans[0].spans
        async with self.news:
            self.batches.append(len(spans))
            if self.status == 200:
                self.names += [span.name for span in spans]
            self.news.notify_all()
        await self.answers.wait()
        return web.Response(status=self.status)

    async def until(self, names: int) -> None:
        async with asyncio.timeout(10), self.news:
            await self.news.wait_for(lambda: len(self.names) >= names)

    def collector(self, delay: float = 0.01, batch: int = 512) -> Collector:
        return Collector(url=f"http://127.0.0.1:{self.port}/v1/traces", http=True, delay=delay, batch=batch)


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/v1/traces", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.port = runner.addresses[0][1]
    yield receiver
    await runner.cleanup()


@asynccontextmanager
async def running(collector: Latest[Collector | None], metrics: Metrics | None = None) -> AsyncIterator[Spans]:
    spans = Spans(collector, ssl.create_default_context(), b"", metrics=metrics)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(spans.run())
        yield spans
        task.cancel()


def dropped(metrics: Metrics) -> float:
    """As a control plane or a scraper reads it."""
    (line,) = [line for line in metrics.text().splitlines() if line.startswith(b"trace_spans_dropped_total ")]
    return float(line.split()[1])


def add(spans: Spans, name: str) -> None:
    spans.add(name, PARENT, time_ns(), {"text": "abc", "number": 3, "truth": True})


async def test_spans_are_gathered_and_sent() -> None:
    async with receiving() as receiver, running(Latest(receiver.collector(batch=2))) as spans:
        for name in ("a", "b", "c"):
            add(spans, name)
        await receiver.until(3)

    assert receiver.names == ["a", "b", "c"]
    assert receiver.batches == [2, 1]


async def test_a_full_batch_does_not_wait() -> None:
    async with receiving() as receiver, running(Latest(receiver.collector(delay=3600, batch=2))) as spans:
        add(spans, "a")
        add(spans, "b")
        await receiver.until(2)


async def test_what_is_left_at_the_end_is_sent() -> None:
    async with receiving() as receiver:
        async with running(Latest(receiver.collector(delay=3600))) as spans:
            await asyncio.sleep(0)
            add(spans, "last")
        assert receiver.names == ["last"]


async def test_without_a_collector_there_are_none_and_one_may_come_and_go() -> None:
    async with receiving() as receiver:
        collector: Latest[Collector | None] = Latest(None)
        async with running(collector) as spans:
            assert not spans.on
            add(spans, "nobody")
            collector.set(receiver.collector())
            add(spans, "somebody")
            await receiver.until(1)
            collector.set(None)
            add(spans, "nobody")

    assert receiver.names == ["somebody"]


async def test_a_collector_that_refuses_loses_spans_and_nothing_else() -> None:
    metrics = Metrics()
    async with receiving() as receiver, running(Latest(receiver.collector()), metrics) as spans:
        receiver.status = 503
        add(spans, "lost")
        async with asyncio.timeout(10), receiver.news:
            await receiver.news.wait_for(lambda: receiver.batches)
        receiver.status = 200
        add(spans, "found")
        await receiver.until(1)

        assert receiver.names == ["found"]
        assert spans.dropped == 1
        assert dropped(metrics) == 1


async def test_spans_under_way_when_the_collector_changes_count_as_dropped() -> None:
    """Nobody knows whether they arrived; those that still wait go to the next collector."""
    metrics = Metrics()
    collector: Latest[Collector | None] = Latest(None)
    async with receiving() as receiver, running(collector, metrics) as spans:
        receiver.answers.clear()
        collector.set(receiver.collector(batch=2))
        for name in ("a", "b", "c"):
            add(spans, name)
        await receiver.until(2)
        receiver.answers.set()
        collector.set(receiver.collector(batch=3))
        await receiver.until(3)

        assert receiver.batches == [2, 1]
        assert dropped(metrics) == 2


async def test_the_queue_has_an_end() -> None:
    metrics = Metrics()
    collector = Collector(url="http://127.0.0.1:1", http=True)
    spans = Spans(Latest(collector), ssl.create_default_context(), b"", metrics=metrics)

    for _ in range(QUEUE + 5):
        add(spans, "x")

    assert len(spans.waiting) == QUEUE
    assert spans.dropped == 5
    assert dropped(metrics) == 5


@pytest.mark.parametrize(
    ("text", "collected"),
    [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", True),
        ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03", True),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", False),
        ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", False),
        ("00-00000000000000000000000000000000-b7ad6b7169203331-01", False),
        ("00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", False),
        ("", False),
    ],
)
def test_traceparents(text: str, collected: bool) -> None:  # a column of the table
    """W3C Trace Context, 3.2."""
    found = parse_traceparent(text)

    assert (found is not None) is collected
    if found is not None and text.startswith("00"):
        assert found.traceparent == text
