"""Metrics on request, against a real OTLP receiver."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
from structlog.testing import capture_logs

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.errors import EnvoyUnavailable
from pomerium_agent.pb.pomerium import connect_pb2
from pomerium_agent.runtime.health import Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.zero.active_users import ActiveUsers, state_record
from pomerium_agent.zero.connect import TELEMETRY_REQUESTS, Events, TelemetryRequests
from pomerium_agent.zero.export import Exporter
from pomerium_agent.zero.otlp_metrics import families
from pomerium_agent.zero.report import resource_of
from pomerium_agent.zero.sent import Sent
from pomerium_agent.zero.telemetry import Scrape, Telemetry, within
from tests.fakes.clock import ManualClock, settle
from tests.fakes.control_plane import FakeControlPlane, serve_control_plane
from tests.unit.zero.wire import IDENTITY, open_api

CHECK = "zero.telemetry.collect-and-send"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
EVERYTHING = connect_pb2.TelemetryRequest(
    session_analytics=connect_pb2.SessionAnalyticsRequest(),
    envoy_metrics=connect_pb2.EnvoyMetricsRequest(metrics=["envoy_server_live"]),
    pomerium_metrics=connect_pb2.PomeriumMetricsRequest(metrics=["policy_count_total"]),
)


async def live() -> str:
    return "# TYPE envoy_server_live gauge\nenvoy_server_live{} 1\n"


async def gone() -> str:
    raise EnvoyUnavailable("it is gone")


@dataclass(slots=True, kw_only=True)
class House:
    plane: FakeControlPlane
    telemetry: Telemetry
    health: Health
    sent: Sent
    envoy: Latest[Scrape | None]
    leading: Latest[Backend | None]

    @property
    def scopes(self) -> list[str]:
        """Of the latest export."""
        [resource] = self.plane.metric_exports[-1].resource_metrics
        return [scope.scope.name for scope in resource.scope_metrics]


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    """A replica with the lease, whose counters know somebody."""
    clock, health, sent = ManualClock(), Health(), Sent()
    backend = MemoryBackend(clock)
    counter = ActiveUsers(NOW).marked(["user1"])
    await backend.put([state_record("dau", counter), state_record("mau", counter.marked(["user2"]))])
    envoy, leading = Latest[Scrape | None](live), Latest[Backend | None](backend)
    async with serve_control_plane() as plane, open_api(plane, clock=clock) as api:
        telemetry = Telemetry(
            Exporter(plane.grpc_endpoint, IDENTITY, b"", api.tokens),
            sent=sent,
            envoy=envoy,
            leading=leading,
            health=health,
            clock=clock,
        )
        yield House(plane=plane, telemetry=telemetry, health=health, sent=sent, envoy=envoy, leading=leading)
    await backend.close()


async def test_one_request_is_one_export_with_a_scope_for_each_producer() -> None:
    """Z-53, Z-55, Z-56."""
    async with house() as at:
        await at.telemetry.answer(EVERYTHING)

        [export] = at.plane.metric_exports
        assert at.scopes == ["pomerium-cluster", "envoy", "pomerium-managed-core"]
        assert export.resource_metrics[0].resource == resource_of(IDENTITY)
        users, envoy, core = export.resource_metrics[0].scope_metrics
        assert [(m.name, m.gauge.data_points[0].as_int) for m in users.metrics] == [("dau", 1), ("mau", 2)]
        assert [m.name for m in envoy.metrics] == ["envoy_server_live"]
        assert [m.name for m in core.metrics] == ["policy_count_total"]
        assert at.health.reports[CHECK].healthy


async def test_who_does_not_have_the_lease_says_nothing_of_people() -> None:
    """Z-56."""
    async with house() as at:
        at.leading.set(None)

        await at.telemetry.answer(EVERYTHING)

        assert at.scopes == ["envoy", "pomerium-managed-core"]


async def test_what_is_not_asked_for_is_not_sent() -> None:
    """Z-55: an empty list of names asks for nothing."""
    async with house() as at:
        at.envoy.set(gone)

        await at.telemetry.answer(
            connect_pb2.TelemetryRequest(
                envoy_metrics=connect_pb2.EnvoyMetricsRequest(),
                pomerium_metrics=connect_pb2.PomeriumMetricsRequest(),
            )
        )

        assert at.scopes == []
        assert at.health.reports[CHECK].healthy


async def test_a_producer_that_fails_does_not_silence_the_others() -> None:
    """Zero link 14."""
    async with house() as at:
        at.envoy.set(gone)

        await at.telemetry.answer(EVERYTHING)

        assert at.scopes == ["pomerium-cluster", "pomerium-managed-core"]


async def endless() -> str:
    return '# TYPE h histogram\nh_bucket{le="1"} +Inf\nh_count +Inf\n' + await live()


async def test_a_count_without_an_end_does_not_end_the_jobs() -> None:
    """Zero link 14, Z-31."""
    async with house() as at:
        at.envoy.set(endless)
        wanted = connect_pb2.EnvoyMetricsRequest(metrics=["h", "envoy_server_live"])

        await at.telemetry.answer(connect_pb2.TelemetryRequest(envoy_metrics=wanted))

        [resource] = at.plane.metric_exports[-1].resource_metrics
        assert [metric.name for metric in resource.scope_metrics[0].metrics] == ["envoy_server_live"]


async def test_an_export_that_fails_is_reported_and_the_next_request_is_answered() -> None:
    """Zero link 14; what did not arrive is not shown as sent."""
    async with house() as at:
        at.plane.export_refusals.append(grpc.StatusCode.UNAVAILABLE)

        await at.telemetry.answer(EVERYTHING)
        assert "scripted refusal" in at.health.reports[CHECK].error
        assert at.sent.to_json()["metrics"] is None
        await at.telemetry.answer(EVERYTHING)

        assert len(at.plane.metric_exports) == 1
        assert at.health.reports[CHECK].healthy
        assert at.sent.to_json()["metrics"] is not None


async def test_a_bearer_that_is_echoed_does_not_come_into_our_words() -> None:
    """Zero link 5: a server may say whom it refuses; our words go to logs and reports."""
    async with house() as at:
        at.plane.echoes = True
        at.plane.export_refusals.append(grpc.StatusCode.PERMISSION_DENIED)

        await at.telemetry.answer(EVERYTHING)

        said = at.health.reports[CHECK].error
    assert "scripted refusal of" in said
    assert "bearer-1" not in said


async def test_a_bearer_that_is_refused_is_dropped() -> None:
    """W2."""
    async with house() as at:
        at.plane.export_refusals.append(grpc.StatusCode.UNAUTHENTICATED)

        await at.telemetry.answer(EVERYTHING)
        await at.telemetry.answer(EVERYTHING)

        assert len(at.plane.requests("exchangeToken")) == 2


async def test_requests_that_come_while_one_is_answered_wait_and_never_hold_up_the_stream() -> None:
    """Z-58: beyond a few they are dropped."""
    async with house() as at:
        events = Events()
        for _ in range(TELEMETRY_REQUESTS + 5):
            events.receive(connect_pb2.Message(telemetry_request=EVERYTHING))

        async with asyncio.TaskGroup() as group:
            task = group.create_task(at.telemetry.run(events.telemetry_requests))
            await at.plane.until(lambda: len(at.plane.metric_exports) == TELEMETRY_REQUESTS)
            task.cancel()


async def test_a_flood_of_requests_is_a_line_of_the_log_and_not_as_many() -> None:
    """Zero link 14, Z-58: dropped with an error log, once a burst."""
    requests = TelemetryRequests()
    with capture_logs() as lines:
        for _ in range(2):
            for _ in range(TELEMETRY_REQUESTS + 500):
                requests.put(EVERYTHING)
            for _ in range(TELEMETRY_REQUESTS):
                assert await requests.get() == EVERYTHING
            waiting = asyncio.create_task(requests.get())
            await settle()
            requests.put(EVERYTHING)
            await waiting

    assert [(each["event"], each["dropped"], each["log_level"]) for each in lines] == [
        ("telemetry requests dropped", 500, "error")
    ] * 2


async def many() -> str:
    return "# TYPE m gauge\n" + "".join(f'm{{n="{number:01500}"}} 1\n' for number in range(1900))


async def test_scopes_share_what_a_server_takes() -> None:
    """Z-55, zero link 6: gRPC takes no message above 4 MiB. What is small goes whole."""
    async with house() as at:
        at.envoy.set(many)
        for number in range(1800):
            at.sent.metrics.reports_sent.labels(f"{number:01500}").inc()
        wanted = connect_pb2.TelemetryRequest(
            session_analytics=connect_pb2.SessionAnalyticsRequest(),
            envoy_metrics=connect_pb2.EnvoyMetricsRequest(metrics=["m"]),
            pomerium_metrics=connect_pb2.PomeriumMetricsRequest(metrics=["control_plane_reports_total"]),
        )

        await at.telemetry.answer(wanted)

        assert at.health.reports[CHECK].healthy
        [resource] = at.plane.metric_exports[-1].resource_metrics
        assert [len(scope.metrics) for scope in resource.scope_metrics][::2] == [2, 1800]
        assert 0 < len(resource.scope_metrics[1].metrics) < 1900


def test_an_export_stays_within_what_a_server_takes() -> None:
    text = "# TYPE a gauge\n" + "".join(f'a{{n="{number}"}} 1\n' for number in range(1000))
    scope = families("envoy", text, ("a",), (), since=NOW, now=NOW)

    [cut] = within([scope], 10_000)

    assert 0 < len(cut.metrics) < 1000
    assert cut.ByteSize() < 11_000
    assert within([scope], 10**7) == [scope]
