"""The connect stream: what it says, when it counts as connected, and how it comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import pytest

from pomerium_agent.pb.pomerium import connect_pb2
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.settings import Endpoint
from pomerium_agent.zero.api import ClusterApi
from pomerium_agent.zero.connect import TELEMETRY_REQUESTS, ConnectStream, ConnectTimes
from pomerium_agent.zero.transport import Keepalive
from tests.fakes.authority import issue_for_loopback
from tests.fakes.clock import ManualClock, settle
from tests.fakes.control_plane import PATIENCE, FakeControlPlane, say, serve_control_plane
from tests.fakes.raw_server import serve_raw, swallow
from tests.unit.zero.wire import IDENTITY, open_api

QUICK = ConnectTimes(open=0.5, quiet=0.1, settled=5.0)
EMPTY_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
WAITS = [0.5 * 1.5**number for number in range(12)]  # B1, without its jitter
CONFIG_UPDATED = connect_pb2.Message(config_updated=connect_pb2.ConfigUpdated(changeset_version=1))
BOOTSTRAP_UPDATED = connect_pb2.Message(bootstrap_config_updated=connect_pb2.BootstrapConfigUpdated())
HEALTH_CHECKS = connect_pb2.Message(run_health_checks_request=connect_pb2.RunHealthChecksRequest())
UNKNOWN_KINDS = (b"\x22\x00", b"\xba\x3e\x01x", b"")  # field 4, field 999, no field at all


def telemetry(metric: str) -> connect_pb2.Message:
    wanted = connect_pb2.EnvoyMetricsRequest(metrics=[metric])
    return connect_pb2.Message(telemetry_request=connect_pb2.TelemetryRequest(envoy_metrics=wanted))


def loopback(port: int) -> Endpoint:
    return Endpoint(url="", tls=False, host="127.0.0.1", port=port)


class WatchedClock(ManualClock):
    """Remembers how long it was asked to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await super().sleep(seconds)


@dataclass(slots=True, kw_only=True)
class House:
    plane: FakeControlPlane
    api: ClusterApi
    stream: ConnectStream
    health: Health
    clock: WatchedClock

    async def until_connected(self, connected: bool = True) -> None:
        async with asyncio.timeout(PATIENCE):
            async for state in self.stream.connection.follow():
                if state.connected == connected:
                    return

    async def until_failed(self) -> str:
        """Return what the health check says once it says something bad and the stream waits for its next try."""
        async with asyncio.timeout(PATIENCE):
            await self.clock.until_sleeping()
        return self.health.reports[Check.ZERO_CONNECT].error

    async def wait_out(self, seconds: float) -> None:
        """Move the clock to the next try, for which the stream must have chosen to wait so long."""
        assert self.clock.waits[-1] == pytest.approx(seconds)
        await self.clock.advance(seconds)


@asynccontextmanager
async def house(*, times: ConnectTimes = QUICK, endpoint: Endpoint | None = None) -> AsyncIterator[House]:
    async with serve_control_plane() as plane, connected_to(plane, times=times, endpoint=endpoint) as at:
        yield at


@asynccontextmanager
async def connected_to(
    plane: FakeControlPlane, *, times: ConnectTimes = QUICK, endpoint: Endpoint | None = None, roots: bytes = b""
) -> AsyncIterator[House]:
    clock, health = WatchedClock(), Health()
    async with open_api(plane, clock=clock) as api:
        stream = ConnectStream(
            endpoint or plane.grpc_endpoint, IDENTITY, roots, api.tokens, health=health, clock=clock, times=times
        )
        async with asyncio.TaskGroup() as group:
            task = group.create_task(stream.run(Backoff(jitter=0)))
            yield House(plane=plane, api=api, stream=stream, health=health, clock=clock)
            task.cancel()


async def test_a_replica_says_who_it_is() -> None:
    """Z-15."""
    async with house() as at:
        await at.until_connected()

        (subscription,) = at.plane.subscriptions
        assert (subscription.request.hostname, subscription.request.version) == ("host-1", "0.37.0+test")
        assert subscription.metadata["authorization"] == "Bearer bearer-1"
        assert subscription.metadata["x-pomerium-agent-instance"] == "instance-1"
        assert subscription.metadata["user-agent"].startswith("pomerium-agent/")
        assert at.health.reports[Check.ZERO_CONNECT].healthy


async def test_requests_are_gzipped_and_the_authority_carries_the_port() -> None:
    """Z-15: seen in the bytes on the wire, since a gRPC server does not show them."""
    async with serve_control_plane() as plane:
        received: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(EMPTY_SETTINGS)
            wire = b""
            while b"grpc-encoding" not in wire and (piece := await reader.read(65536)):
                wire += piece
            if not received.done():
                received.set_result(wire)

        async with serve_raw(listen) as port, connected_to(plane, endpoint=loopback(port)):
            async with asyncio.timeout(PATIENCE):
                wire = await received

    assert f"127.0.0.1:{port}".encode() in wire
    assert b"/pomerium.zero.Connect/Subscribe" in wire
    assert b"grpc-encoding" in wire
    assert b"gzip" in wire


async def test_over_tls_the_server_must_be_one_that_our_roots_vouch_for(tmp_path: Path) -> None:
    """Zero link 6."""
    issued = issue_for_loopback()
    async with serve_control_plane() as http, serve_control_plane(issued, tmp_path) as plane:
        plane.bearers.add("bearer-1")
        plane.bearers.add("bearer-2")
        async with connected_to(http, endpoint=plane.grpc_endpoint, roots=issued.authority) as at:
            await at.until_connected()
        stranger = issue_for_loopback().authority
        async with connected_to(http, endpoint=plane.grpc_endpoint, roots=stranger) as at:
            assert "UNAVAILABLE" in await at.until_failed()


async def test_each_message_becomes_an_event() -> None:
    """Z-20, Z-21: zero link 6.1."""
    async with house() as at:
        await at.until_connected()
        events = at.stream.events

        for message in (CONFIG_UPDATED, BOOTSTRAP_UPDATED, HEALTH_CHECKS, telemetry("m")):
            at.plane.push(message)

        async with asyncio.timeout(PATIENCE):
            request = await events.telemetry_requests.get()
            await events.config_updated.wait()
            await events.bootstrap_config_updated.wait()
            await events.run_health_checks.wait()
        assert request.envoy_metrics.metrics == ["m"]


async def test_kinds_that_nobody_knows_are_left_aside() -> None:
    """Z-18."""
    async with house() as at:
        await at.until_connected()

        for message in (*UNKNOWN_KINDS, CONFIG_UPDATED):
            at.plane.push(message)

        async with asyncio.timeout(PATIENCE):
            await at.stream.events.config_updated.wait()
        assert at.stream.connection.value.connected


async def test_a_consumer_that_never_comes_does_not_hold_up_the_stream() -> None:
    """Z-19: what is too much is dropped."""
    async with house() as at:
        await at.until_connected()

        for number in range(TELEMETRY_REQUESTS * 3):
            at.plane.push(telemetry(str(number)))
            at.plane.push(CONFIG_UPDATED)
        at.plane.push(BOOTSTRAP_UPDATED)

        async with asyncio.timeout(PATIENCE):
            await at.stream.events.bootstrap_config_updated.wait()
        assert at.stream.events.telemetry_requests.waiting == TELEMETRY_REQUESTS


async def test_a_stream_that_ends_comes_back() -> None:
    """Z-16, Z-17: a clean end, too."""
    async with house() as at:
        await at.until_connected()
        first = at.stream.connection.value.turn

        at.plane.subscriptions[0].end()
        assert "the stream ended" in await at.until_failed()
        assert not at.stream.connection.value.connected
        await at.wait_out(WAITS[0])
        await at.until_connected()

        assert at.stream.connection.value.turn == first + 2
        assert at.health.reports[Check.ZERO_CONNECT].healthy


async def test_a_message_that_cannot_be_decoded_ends_the_stream_and_not_the_agent() -> None:
    """Z-16."""
    async with house() as at:
        await at.until_connected()

        at.plane.push(b"\xff\xff\xff")
        assert "cannot be decoded" in await at.until_failed()
        await at.wait_out(WAITS[0])

        await at.until_connected()


async def test_a_server_that_refuses_was_never_connected_and_is_asked_ever_more_rarely() -> None:
    """W1, Z-16."""
    async with house() as at:
        at.plane.subscribe_refusals.extend([grpc.StatusCode.PERMISSION_DENIED] * 12)

        for wait in WAITS:
            assert "PERMISSION_DENIED: scripted refusal" in await at.until_failed()
            await at.wait_out(wait)

        await at.until_connected()
        assert at.stream.connection.value.turn == 1


async def test_a_connection_that_breaks_at_once_does_not_reset_the_waits() -> None:
    """W1."""
    async with house() as at:
        for wait in WAITS[:6]:
            await at.until_connected()
            at.plane.subscriptions[0].end()
            await at.until_failed()
            await at.wait_out(wait)

        await at.until_connected()
        await at.clock.advance(QUICK.settled)
        at.plane.subscriptions[0].end()
        await at.until_failed()
        await at.wait_out(WAITS[0])


async def test_a_server_that_keeps_its_headers_counts_as_connected_after_a_while() -> None:
    """W1: headers come with the first message, and there may be none for hours."""
    async with house() as at:
        at.plane.silent_subscribe = True

        await at.until_connected()
        await at.plane.until(lambda: bool(at.plane.subscriptions))  # it is connected for us before it knows of us

        at.plane.push(CONFIG_UPDATED)
        async with asyncio.timeout(PATIENCE):
            await at.stream.events.config_updated.wait()


async def test_a_server_that_accepts_and_then_says_nothing_is_not_connected() -> None:
    """W1, W3: TCP is there, HTTP/2 is not."""

    async with serve_raw(swallow) as port, house(endpoint=loopback(port)) as at:
        assert "no connection after 0.5 s" in await at.until_failed()
        assert not at.stream.connection.value.connected


async def test_a_connection_that_goes_dead_is_noticed() -> None:
    """W1, zero link 6: keepalive, with a peer that takes bytes and gives none."""
    async with serve_control_plane() as plane:
        frozen = asyncio.Event()

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _relay(reader, writer, plane.grpc_endpoint.port, frozen)

        times = replace(QUICK, keepalive=Keepalive(time=1.0, timeout=0.5))
        async with serve_raw(relay) as port, connected_to(plane, endpoint=loopback(port), times=times) as at:
            await at.until_connected()

            frozen.set()

            assert "UNAVAILABLE" in await at.until_failed()


async def test_a_bearer_that_is_echoed_does_not_come_into_our_words() -> None:
    """Zero link 5: a server may say whom it refuses; our words go to logs and reports."""
    async with house() as at:
        at.plane.echoes = True
        at.plane.subscribe_refusals.append(grpc.StatusCode.PERMISSION_DENIED)

        said = await at.until_failed()

    assert "scripted refusal of" in said
    assert "bearer-1" not in said


async def test_a_bearer_that_is_refused_is_dropped() -> None:
    """W2."""
    async with house() as at:
        await at.until_connected()
        at.plane.bearers.clear()
        at.plane.subscriptions[0].end()
        await at.until_failed()
        await at.wait_out(WAITS[0])
        assert "UNAUTHENTICATED" in await at.until_failed()
        await at.wait_out(WAITS[1])

        await at.until_connected()

        assert at.plane.subscriptions[0].metadata["authorization"] == "Bearer bearer-2"


async def test_a_refused_exchange_does_not_end_the_stream_for_good() -> None:
    """Zero link 4.4: the bootstrap loop meets the same answer, and decides."""
    async with serve_control_plane() as plane:
        plane.script("exchangeToken", say({"error": "unknown token"}, 400))
        async with connected_to(plane) as at:
            assert "refused: bad request: unknown token" in await at.until_failed()
            await at.wait_out(WAITS[0])
            await at.until_connected()


@pytest.mark.parametrize("moment", range(0, 60, 3))
async def test_cancelling_at_any_moment_leaves_nothing_behind(moment: int) -> None:
    async with serve_control_plane() as plane:
        async with connected_to(plane):
            await settle(moment)

        assert [
            one for one in map(repr, asyncio.all_tasks()) if "/pomerium_agent/" in one or "aio/_call.py" in one
        ] == []


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, frozen: asyncio.Event) -> None:
    """Pass bytes both ways, until frozen: then take what comes and pass nothing."""
    there, back = await asyncio.open_connection("127.0.0.1", port)

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while piece := await source.read(65536):
            if not frozen.is_set():
                target.write(piece)

    try:
        async with asyncio.TaskGroup() as group:
            down = group.create_task(pump(there, writer))
            await pump(reader, back)
            down.cancel()
    finally:
        back.close()
        await back.wait_closed()
