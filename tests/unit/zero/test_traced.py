"""Bringing the configuration in, as traces show it (routes 7.7)."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.runtime.collector import Collector
from pomerium_agent.runtime.health import Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.spans import Spans
from pomerium_agent.zero.nudge import ConnectionState, Flag, Schedule
from pomerium_agent.zero.reconciler import Reconciler
from tests.fakes.clock import ManualClock
from tests.fakes.control_plane import SIGNATURE, FakeControlPlane, say, serve_control_plane
from tests.unit.zero.wire import open_downloader, record

HERE = Collector(url="http://127.0.0.1:1", http=True)


@dataclass(frozen=True, slots=True)
class House:
    plane: FakeControlPlane
    reconciler: Reconciler
    clock: ManualClock
    spans: Spans

    async def sync(self) -> dict[str, list[Span]]:
        """One try; the spans it left, by name."""
        before = len(self.spans.waiting)
        due = Schedule(Latest(ConnectionState()), Flag(), clock=self.clock, gap=0.0)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            task = group.create_task(self.reconciler.run(due))
            await self.clock.until_sleeping()
            task.cancel()
        found: dict[str, list[Span]] = {}
        for span in self.spans.waiting[before:]:
            found.setdefault(span.name, []).append(span)
        return found


@asynccontextmanager
async def house(collector: Collector | None = HERE) -> AsyncIterator[House]:
    clock, spans = ManualClock(), Spans(Latest(collector), ssl.create_default_context(), b"")
    backend = MemoryBackend(clock)
    async with serve_control_plane() as plane, open_downloader(plane, clock=clock) as (api, downloader):
        reconciler = Reconciler(api, downloader, backend, health=Health(), clock=clock, spans=spans)
        yield House(plane, reconciler, clock, spans)
    await backend.close()


def facts(span: Span) -> dict[str, str | int | bool]:
    """What it says, without the prefix that all of it has."""
    return {
        item.key.removeprefix("pomerium."): getattr(item.value, str(item.value.WhichOneof("value")))
        for item in span.attributes
    }


async def test_a_sync_is_a_trace_of_its_own_with_a_span_for_each_bundle() -> None:
    """What changed and what did not, and how long each step took."""
    async with house() as at:
        at.plane.publish("one", [record("a"), record("b")], etag='"1"')
        first = await at.sync()
        again = await at.sync()

    (whole,), (listing,), (bundle,) = first["sync"], first["list bundles"], first["bundle"]
    (download,), (apply,) = first["download"], first["apply"]
    assert {span.trace_id for spans in first.values() for span in spans} == {whole.trace_id}
    assert whole.parent_span_id == b""
    assert listing.parent_span_id == bundle.parent_span_id == whole.span_id
    assert download.parent_span_id == apply.parent_span_id == bundle.span_id
    assert facts(listing) == {"bundles": 1}
    assert facts(bundle) == {"bundle_id": "one", "bundle_changed": True, "records": 2}
    assert facts(apply) == {"records_added": 2, "records_modified": 0, "records_deleted": 0}
    assert whole.start_time_unix_nano <= download.start_time_unix_nano <= download.end_time_unix_nano
    assert apply.end_time_unix_nano <= bundle.end_time_unix_nano <= whole.end_time_unix_nano

    assert again["sync"][0].trace_id != whole.trace_id
    assert facts(again["bundle"][0]) == {"bundle_id": "one", "bundle_changed": False}
    assert "apply" not in again


async def test_what_fails_is_marked_and_no_span_says_how_to_get_at_a_bundle() -> None:
    """Z-14: the URL of a bundle is a permission."""
    async with house() as at:
        at.plane.publish("bad", b"not a bundle", etag='"1"')
        at.plane.publish("good", [record("a")], etag='"1"')
        found = await at.sync()
        at.plane.always("storage", say({"error": "not today"}, 500))
        away = await at.sync()

    errors = {span.name: span.status.message for span in (*found["sync"], *found["download"]) if span.status.message}
    assert errors == {"sync": "SomeFailed", "download": "ConfigRejected"}
    outcome = {facts(span)["bundle_id"]: span.status.code for span in found["bundle"]}
    assert outcome == {"bad": Status.STATUS_CODE_ERROR, "good": Status.STATUS_CODE_UNSET}
    assert {span.status.message for span in away["bundle"]} == {"ControlPlaneUnavailable"}
    assert at.plane.requests("storage")
    everything = str(at.spans.waiting)
    assert SIGNATURE.partition("=")[2] not in everything
    assert "/storage/" not in everything


async def test_nobody_is_told_where_nobody_collects() -> None:
    """Neither without a collector, nor where the share of traces that are collected is none."""
    for collector in (None, Collector(url="http://127.0.0.1:1", http=True, ratio=0.0)):
        async with house(collector) as at:
            at.plane.publish("one", [record("a")], etag='"1"')

            assert await at.sync() == {}
            assert at.plane.requests("storage")


def test_as_many_traces_begin_as_are_wanted() -> None:
    """Routes 1.7 (122): the share counts for traces that begin here."""
    spans = Spans(Latest(Collector(url="http://127.0.0.1:1", http=True, ratio=0.5)), ssl.create_default_context(), b"")

    begun = [spans.root() for _ in range(1000)]

    assert 300 < sum(root is not None for root in begun) < 700
    assert len({root.trace_id for root in begun if root is not None}) > 300
