"""A line that is bad for long: tries are cheap, leave nothing behind, and say the same thing once."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.pb.pomerium import connect_pb2
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.runtime.health import Check, Health, Report
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.settings import Endpoint
from pomerium_agent.zero.connect import ConnectStream, ConnectTimes
from pomerium_agent.zero.link import open_link, run_jobs
from pomerium_agent.zero.token import TokenCache
from tests.fakes.control_plane import PATIENCE, FakeControlPlane, Say, html, say, serve_control_plane, settings_for
from tests.fakes.raw_server import Handler, serve_raw
from tests.unit.zero.test_link import House
from tests.unit.zero.wire import IDENTITY, open_api, record

QUICK = ConnectTimes(open=0.5, quiet=0.1, grace=0.01)
WARM_UP, RECONNECTS = 200, 1000
FLOOD = 5000
OFTEN = 8  # tries
CONFIG_UPDATED = connect_pb2.Message(config_updated=connect_pb2.ConfigUpdated())
BOOTSTRAP_UPDATED = connect_pb2.Message(bootstrap_config_updated=connect_pb2.BootstrapConfigUpdated())
HEALTH_CHECKS = connect_pb2.Message(run_health_checks_request=connect_pb2.RunHealthChecksRequest())
METRICS = connect_pb2.TelemetryRequest(envoy_metrics=connect_pb2.EnvoyMetricsRequest(metrics=["m"]))


class HurriedClock(SystemClock):
    """Waits hardly at all, and remembers how long it was asked to."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.tried_often = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        if len(self.waits) >= OFTEN:
            self.tried_often.set()
        await super().sleep(min(seconds, 0.001))


class WrongClock(SystemClock):
    """Of a machine that takes today for another day."""

    def __init__(self, today: datetime) -> None:
        self.today = today

    def now(self) -> datetime:
        return self.today


class CountedHealth(Health):
    """Remembers every report that was news."""

    def __init__(self) -> None:
        super().__init__()
        self.news: list[Report] = []

    def _put(self, report: Report) -> None:
        if self.reports.get(report.check) != report:
            self.news.append(report)
        super()._put(report)


def open_stream(
    plane: FakeControlPlane, tokens: TokenCache, clock: SystemClock, health: Health, endpoint: Endpoint | None = None
) -> ConnectStream:
    return ConnectStream(
        endpoint or plane.grpc_endpoint, IDENTITY, b"", tokens, health=health, clock=clock, times=QUICK
    )


def test_replicas_that_lose_the_line_together_come_back_apart() -> None:
    """Z-16, B1: no tenth of a second of the half in which they come sees much more than its share."""
    waits = [Backoff().next() for _ in range(1000)]

    shares = [sum(low / 100 <= wait < low / 100 + 0.1 for wait in waits) for low in range(25, 75, 10)]
    assert sum(shares) == len(waits)
    assert max(shares) < 300


def test_replicas_that_are_all_told_when_to_come_back_come_apart() -> None:
    """Zero link 3: a Retry-After is the same for everybody; nobody comes sooner, and not all at once."""
    waits = [Backoff().next(at_least=30.0) for _ in range(1000)]

    assert all(30.0 <= wait <= 45.0 for wait in waits)
    assert max(sum(second <= wait < second + 1 for wait in waits) for second in range(30, 45)) < 150


async def test_three_replicas_that_are_cut_off_at_once_do_not_come_back_at_once() -> None:
    """Z-16."""
    async with serve_control_plane() as plane, open_api(plane) as api, asyncio.TaskGroup() as group:
        clocks = [HurriedClock() for _ in range(3)]
        running = [group.create_task(open_stream(plane, api.tokens, clock, Health()).run()) for clock in clocks]
        await plane.until(lambda: len(plane.subscriptions) == 3)
        lost = list(plane.subscriptions)

        for subscription in lost:
            subscription.end()
        await plane.until(lambda: len(plane.subscriptions) == 3 and not set(lost) & set(plane.subscriptions))

        first = [clock.waits[0] for clock in clocks]
        assert all(0.25 <= wait <= 0.75 for wait in first)
        assert len(set(first)) == 3
        for task in running:
            task.cancel()


def descriptors() -> int:
    """How many this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def reconnect(plane: FakeControlPlane, stream: ConnectStream, times: int) -> None:
    """Have the stream cut so many times, every third time with a refusal in between."""
    async with aclosing(stream.connection.follow()) as states:
        async for state in states:
            if state.connected:
                if times % 3 == 0:
                    plane.subscribe_refusals.append(grpc.StatusCode.UNAVAILABLE)
                await plane.until(lambda: plane.subscriptions)
                plane.subscriptions[0].end()
                times -= 1
            if not times:
                return


async def test_a_thousand_connections_leave_nothing_behind() -> None:
    """Z-16, Z-65: no descriptor, no task, no memory."""
    async with serve_control_plane() as plane, open_api(plane) as api, asyncio.TaskGroup() as group:
        stream = open_stream(plane, api.tokens, HurriedClock(), Health())
        running = group.create_task(stream.run())

        tracemalloc.start()
        try:
            await reconnect(plane, stream, WARM_UP)
            gc.collect()
            before = descriptors(), len(asyncio.all_tasks()), tracemalloc.get_traced_memory()[0]
            await reconnect(plane, stream, RECONNECTS)
            gc.collect()
            after = descriptors(), len(asyncio.all_tasks()), tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        running.cancel()

    # Those of the last few connections may be on their way out; one kept each time would be a thousand.
    assert after[0] < before[0] + 20
    assert after[1] < before[1] + 10
    assert after[2] < before[2] + 200 * RECONNECTS  # bytes; a channel that was kept has tens of thousands


@asynccontextmanager
async def linked(plane: FakeControlPlane, folder: Path, clock: SystemClock, health: Health) -> AsyncIterator[House]:
    """A link with its jobs."""
    backend = MemoryBackend(clock)
    async with (
        open_link(settings_for(plane, folder), health=health, clock=clock, instance="instance-1") as link,
        run_jobs(link, Latest(backend)),
    ):
        yield House(plane=plane, link=link, health=health, backend=backend)
    await backend.close()


async def test_a_flood_of_messages_changes_nothing_and_hides_nothing(tmp_path: Path) -> None:
    """Z-18, Z-19, Z-20: what is said many times is done a few times, and nobody's configuration is built anew."""
    health = CountedHealth()
    async with serve_control_plane() as plane:
        plane.publish("config", [record("a")], etag='"1"')
        async with linked(plane, tmp_path, SystemClock(), health) as at:
            await at.until_ids("a")
            await at.until_healthy("zero.resource-bundle.config")
            await at.until_healthy(Check.ZERO_CONNECT)
            await at.until_healthy(Check.ZERO_BOOTSTRAP_SAVE)
            await plane.until(lambda: plane.subscriptions)
            (before,), news = (await at.backend.latest("type.googleapis.com/pomerium.config.Config"))[1], health.news[:]

            for _ in range(FLOOD):
                for message in (CONFIG_UPDATED, BOOTSTRAP_UPDATED, HEALTH_CHECKS):
                    plane.push(message)
                plane.push(connect_pb2.Message(telemetry_request=METRICS))
                plane.push(b"\xba\x3e\x01x")
            plane.publish("config", [record("a"), record("b")], etag='"2"')
            plane.push(CONFIG_UPDATED)
            await at.until_ids("a", "b")

            (after, _) = (await at.backend.latest("type.googleapis.com/pomerium.config.Config"))[1]
            assert after.version == before.version
            assert [report for report in health.news[len(news) :] if report.error] == []
            assert at.link.connection.value.turn == 1
            assert len(plane.requests("bundles")) < FLOOD / 10
            assert len(plane.requests("bootstrap")) < FLOOD / 10


@pytest.mark.parametrize("today", [datetime(1970, 1, 2, tzinfo=UTC), datetime(2199, 1, 1, tzinfo=UTC)])
@pytest.mark.parametrize("seconds", [0, 1, 3600, 10**9])
async def test_the_time_of_day_and_of_the_other_side_do_not_matter(
    tmp_path: Path, today: datetime, seconds: int
) -> None:
    """Z-12, Z-33: bearers and URLs that are over when they come, or never, on a machine with another date."""
    async with serve_control_plane() as plane:
        plane.bearer_seconds = plane.url_seconds = seconds
        plane.publish("config", [record("a")], etag='"1"')
        async with linked(plane, tmp_path, WrongClock(today), Health()) as at:
            await at.until_ids("a")
            await at.until_healthy(Check.ZERO_CONNECT)
            await plane.until(lambda: plane.subscriptions)
            plane.publish("config", [record("a"), record("b")], etag='"2"')
            plane.push(CONFIG_UPDATED)
            await at.until_ids("a", "b")
            asked = len(plane.requests("bundles"))

        assert asked < 10


FAULTS = {
    "HTML": html(),
    "401": say({"error": "who?"}, 401),
    "403": say({"error": "no"}, 403),
    "429": say({"error": "later"}, 429, Retry_After="30"),
    "500": say({"error": "oh"}, 500),
}


@pytest.mark.parametrize("answer", FAULTS.values(), ids=FAULTS)
async def test_a_fault_that_stays_is_reported_once(answer: Say) -> None:
    """Z-10, Z-52: the same words at every try, so that nothing is sent again."""
    clock, health = HurriedClock(), CountedHealth()
    async with serve_control_plane() as plane, open_api(plane) as api, asyncio.TaskGroup() as group:
        plane.always("exchangeToken", answer)
        running = group.create_task(open_stream(plane, api.tokens, clock, health).run())
        await plane.until(lambda: len(plane.seen) > 20)

        assert len(health.news) == 1
        if answer.status == 429:  # and not all replicas at once
            assert min(clock.waits) >= 30.0
        running.cancel()


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def hangs_up_in_the_middle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00")
    await reader.read(65536)
    writer.transport.abort()


async def answers_a_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi")
    await reader.read(65536)


@pytest.mark.parametrize("misbehaves", [resets, hangs_up_in_the_middle, answers_a_page])
async def test_a_stream_that_breaks_in_the_same_way_is_reported_once(misbehaves: Handler) -> None:
    """Z-16, Z-52."""
    clock, health = HurriedClock(), CountedHealth()
    async with (
        serve_control_plane() as plane,
        open_api(plane) as api,
        serve_raw(misbehaves) as port,
        asyncio.TaskGroup() as group,
    ):
        nowhere = Endpoint(url="", tls=False, host="127.0.0.1", port=port)
        running = group.create_task(open_stream(plane, api.tokens, clock, health, nowhere).run())
        async with asyncio.timeout(PATIENCE):
            await clock.tried_often.wait()

        assert len(health.news) == 1
        running.cancel()
