"""Health on its way to the control plane: which spans, when, and what trouble on the way costs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.health import Health
from pomerium_agent.settings import Endpoint
from pomerium_agent.zero.export import Exporter
from pomerium_agent.zero.report import BATCH_DELAY, BATCH_SPANS, Reporter, resource_of
from tests.fakes.clock import ManualClock, settle
from tests.fakes.control_plane import PATIENCE, FakeControlPlane, serve_control_plane
from tests.fakes.raw_server import serve_raw, swallow
from tests.unit.zero.wire import IDENTITY, open_api

OK, ERROR = trace_pb2.Status.STATUS_CODE_OK, trace_pb2.Status.STATUS_CODE_ERROR


@dataclass(slots=True, kw_only=True)
class House:
    plane: FakeControlPlane
    reporter: Reporter
    health: Health
    clock: ManualClock

    @property
    def told(self) -> list[tuple[str, int, str]]:
        return [(span.name, span.status.code, span.status.message) for span in self.plane.spans]

    async def until_told(self, count: int) -> None:
        """Let time pass until so many spans have arrived, and no more."""
        async with asyncio.timeout(PATIENCE):
            while len(self.plane.spans) < count:
                await self.clock.advance(BATCH_DELAY / 4)
        assert len(self.plane.spans) == count


@asynccontextmanager
async def house(*, queue_spans: int = 100, endpoint: Endpoint | None = None) -> AsyncIterator[House]:
    clock, health = ManualClock(), Health()
    async with serve_control_plane() as plane, open_api(plane, clock=clock) as api:
        reporter = Reporter(
            Exporter(endpoint or plane.grpc_endpoint, IDENTITY, b"", api.tokens),
            health=health,
            clock=clock,
            queue_spans=queue_spans,
        )
        yield House(plane=plane, reporter=reporter, health=health, clock=clock)


@asynccontextmanager
async def running(at: House) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(at.reporter.run(Backoff(jitter=0)))
        yield
        task.cancel()


async def test_the_latest_state_of_every_check_is_told_at_the_start() -> None:
    """Z-53, Z-54: no span for a part that is stopping."""
    async with house() as at:
        at.health.failed("a", "old trouble")
        at.health.failed("a", "trouble", {"k": "v"})
        at.health.running("b")
        at.health.terminating("c")

        async with running(at):
            await at.until_told(2)

        assert at.told == [("a", ERROR, "trouble"), ("b", OK, "")]


async def test_a_repeated_report_is_told_once_and_every_change_is_told() -> None:
    """Z-52."""
    async with house() as at, running(at):
        at.health.running("a")
        await settle()
        at.health.running("a")
        await settle()
        at.health.running("a", version="2")
        await settle()
        at.health.failed("a", "x")
        await settle()
        at.health.failed("a", "y")
        await at.until_told(4)

        assert at.told == [("a", OK, ""), ("a", OK, ""), ("a", ERROR, "x"), ("a", ERROR, "y")]


async def test_a_span_is_what_the_control_plane_expects() -> None:
    """Z-53."""
    async with house() as at, running(at):
        began = int(at.clock.now().timestamp())
        at.health.running("zero.resource-bundle.config", version="7")
        await at.until_told(1)

        (export,) = at.plane.exports
        (resource,) = export.resource_spans
        attributes = {one.key: one.value.string_value for one in resource.resource.attributes}
        assert attributes == {
            "service.name": "pomerium-managed-core",
            "service.version": "0.37.0+test",
            "service.instance.id": "instance-1",
            "host.name": "host-1",
            "pomerium.envoy.version": "1.40.0",
            "pomerium.config.version": "v0.37.0",
            "pomerium.hosted-authenticate-oidc.version": "v0.1.0",
            "pomerium.mcp.version": "v0.32.0",
            "pomerium.ssh.version": "v0.20.0",
        }
        assert resource.schema_url == ""
        (scope,) = resource.scope_spans
        assert scope.scope.name == "pomerium-managed-core"
        (span,) = scope.spans
        assert (len(span.trace_id), len(span.span_id), span.parent_span_id) == (16, 8, b"")
        assert [(one.key, one.value.string_value) for one in span.attributes] == [("version", "7")]
        assert span.start_time_unix_nano == span.end_time_unix_nano == began * 10**9


def test_a_host_without_a_name_says_none() -> None:
    """Z-53."""
    resource = resource_of(replace(IDENTITY, hostname="__unknown__"))

    assert "host.name" not in {one.key for one in resource.attributes}


async def test_what_cannot_be_sent_is_sent_later_in_order() -> None:
    """Z-65: telemetry trouble is nobody else's trouble."""
    async with house() as at:
        at.plane.export_refusals.extend([grpc.StatusCode.UNAVAILABLE] * 3)
        began = at.clock.monotonic()
        async with running(at):
            for attempt in range(1, 4):
                at.health.running(f"{attempt}")
                async with asyncio.timeout(PATIENCE):
                    while at.plane.export_attempts < attempt:
                        await at.clock.advance(BATCH_DELAY / 4)
            at.health.running("4")
            await at.until_told(4)

        assert [name for name, _, _ in at.told] == ["1", "2", "3", "4"]
        assert at.clock.monotonic() - began > 0.5 + 0.75 + 1.125


async def test_when_too_much_waits_the_oldest_goes_first() -> None:
    async with house(queue_spans=3) as at, running(at):
        for number in range(10):
            at.health.running(f"{number}")
        await at.until_told(3)

        assert [name for name, _, _ in at.told] == ["7", "8", "9"]


async def test_words_that_are_no_text_are_told_as_far_as_they_are() -> None:
    """Z-65: a header or a file name may hold any bytes, and reaches an error's text."""
    async with house() as at, running(at):
        at.health.failed("a\udcff", "b\udcff", {"c\udcff": "d\udcff"})
        await at.until_told(1)

        (span,) = at.plane.spans
        assert (span.name, span.status.message) == ("a?", "b?")
        assert [(one.key, one.value.string_value) for one in span.attributes] == [("c?", "d?")]


async def test_a_batch_is_small_enough_to_be_taken() -> None:
    """Z-65: gRPC takes no message above 4 MiB; one that is refused for its size would be tried for ever."""
    async with house(queue_spans=2000) as at, running(at):
        for number in range(60):
            at.health.failed(f"{number}", "x" * 100_000)
        await at.until_told(60)

        assert max(export.ByteSize() for export in at.plane.exports) < 4 * 1024 * 1024


async def test_a_batch_is_measured_in_bytes() -> None:
    """Z-65: a character may take four of them."""
    async with house() as at, running(at):
        for number in range(4):
            at.health.failed(f"{number}", "\N{GRINNING FACE}" * (256 * 1024 - 1))
        await at.until_told(4)


async def test_a_report_that_no_server_takes_is_cut_and_keeps_nobody_waiting() -> None:
    """Z-65."""
    async with house() as at, running(at):
        at.health.failed("a", "x" * 5_000_000, {"k": "y" * 5_000_000})
        at.health.running("b")
        await at.until_told(2)

        assert [(name, code, set(said)) for name, code, said in at.told] == [("a", ERROR, {"x"}), ("b", OK, set())]


async def test_a_batch_has_a_limit() -> None:
    """Z-53: zero link 13.3, 512 spans."""
    async with house(queue_spans=2000) as at, running(at):
        for number in range(BATCH_SPANS + 1):
            at.health.running(f"{number}")
        await at.until_told(BATCH_SPANS + 1)

        assert [len(export.resource_spans[0].scope_spans[0].spans) for export in at.plane.exports] == [BATCH_SPANS, 1]


async def test_a_bearer_that_is_refused_is_dropped() -> None:
    """W2."""
    async with house() as at, running(at):
        at.health.running("a")
        await at.until_told(1)
        at.plane.bearers.clear()
        at.health.running("b")

        await at.until_told(2)


async def test_what_was_said_last_is_flushed() -> None:
    """Z-64."""
    async with house() as at:
        async with running(at):
            at.health.running("a")
            await settle()
        at.health.failed("b", "said while stopping")

        await at.reporter.flush()

        assert at.told == [("a", OK, ""), ("b", ERROR, "said while stopping")]


async def test_a_flush_ends_within_its_budget() -> None:
    """Z-64: a collector that accepts and then hangs does not hold up the stop."""
    async with (
        serve_raw(swallow) as port,
        house(endpoint=Endpoint(url="", tls=False, host="127.0.0.1", port=port)) as at,
    ):
        at.health.running("a")

        async with asyncio.timeout(PATIENCE):
            await at.reporter.flush(budget=0.2)
