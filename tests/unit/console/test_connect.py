"""The Connect stream over real gRPC: told at once, ended in time, and never for the wrong cluster."""

import asyncio
import struct
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from yarl import URL

from pomerium_agent.console.clusters import create_cluster, rotate_token, set_storage
from pomerium_agent.console.control import ask, poke
from pomerium_agent.console.server import SAFETY_CHECK
from pomerium_agent.console.store import open_store
from pomerium_agent.pb.pomerium import connect_pb2, connect_pb2_grpc
from tests.fakes.clock import ManualClock
from tests.fakes.console import NOW, QUICKSTART, Visit, visited_console

HTTP2_FRAME = struct.Struct(">BHBBI")  # length in two parts, type, flags, stream
Call = grpc.aio.UnaryStreamCall[connect_pb2.SubscribeRequest, connect_pb2.Message]


async def next_message(call: Call) -> connect_pb2.Message:
    async with asyncio.timeout(5):
        message = await call.read()
    assert isinstance(message, connect_pb2.Message)
    return message


async def end_of(call: Call) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        async with asyncio.timeout(5):
            await call.read()
    return ended.value.code(), ended.value.details() or ""


async def poked(visit: Visit) -> None:
    assert await asyncio.to_thread(poke, visit.console.data_dir, visit.cluster.id)


async def test_a_poke_reaches_a_replica_within_moments(tmp_path: Path) -> None:
    """Z-15, Z-20: the stream carries the new version."""
    async with visited_console(tmp_path) as visit, visit.subscribed(await visit.bearer()) as call:
        visit.apply(QUICKSTART)

        await poked(visit)

        assert (await next_message(call)).config_updated.changeset_version == 2


async def test_a_replica_may_ping_while_nothing_is_said(tmp_path: Path) -> None:
    """Zero link 6: replicas do, once a minute. A gRPC server left to itself hangs up on the fourth ping."""
    async with visited_console(tmp_path) as visit, asyncio.timeout(5):
        address = URL(visit.console.connect)
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP2_FRAME.pack(0, 0, 4, 0, 0))

        for number in range(10):
            writer.write(HTTP2_FRAME.pack(0, 8, 6, 0, 0) + number.to_bytes(8, "big"))
            kind = 0
            while kind != 6:
                _, length, kind, _, _ = HTTP2_FRAME.unpack(await reader.readexactly(HTTP2_FRAME.size))
                body = await reader.readexactly(length)
                assert kind != 7, body  # GOAWAY

        writer.close()
        await writer.wait_closed()


async def test_a_new_bootstrap_is_told_to_every_replica(tmp_path: Path) -> None:
    """Z-21."""
    async with visited_console(tmp_path) as visit:
        bearer = await visit.bearer()
        async with visit.subscribed(bearer, instance="a") as one, visit.subscribed(bearer, instance="b") as other:
            set_storage(visit.console.store, visit.cluster, "file:///records")

            await poked(visit)

            for call in (one, other):
                assert (await next_message(call)).WhichOneof("message") == "bootstrap_config_updated"


async def test_a_poke_without_a_change_says_nothing(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit, visit.subscribed(await visit.bearer()) as call:
        await poked(visit)
        visit.apply(QUICKSTART)
        await poked(visit)

        assert (await next_message(call)).config_updated.changeset_version == 2


async def test_another_cluster_hears_nothing(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit, visit.subscribed(await visit.bearer()) as call:
        other = create_cluster(visit.console.store, "other", now=NOW).cluster
        set_storage(visit.console.store, other, "file:///records")
        assert await asyncio.to_thread(poke, visit.console.data_dir, other.id)

        visit.apply(QUICKSTART)
        await poked(visit)

        assert (await next_message(call)).WhichOneof("message") == "config_updated"


async def test_what_another_process_wrote_is_noticed_without_a_poke(tmp_path: Path) -> None:
    clock = ManualClock()
    async with visited_console(tmp_path, clock=clock) as visit, visit.subscribed(await visit.bearer()) as call:
        await clock.until_sleeping(4)

        def write() -> None:
            with open_store(tmp_path, create=False) as elsewhere:
                set_storage(elsewhere, elsewhere.cluster("demo"), "file:///records")

        await asyncio.to_thread(write)
        await clock.advance(SAFETY_CHECK)

        assert (await next_message(call)).WhichOneof("message") == "bootstrap_config_updated"


@pytest.mark.parametrize("bearer", ["", "nonsense", "1.x.1.9999999999.x"])
async def test_a_stream_without_a_good_bearer_is_refused(tmp_path: Path, bearer: str) -> None:
    async with visited_console(tmp_path) as visit, visit.channel() as channel:
        call = connect_pb2_grpc.ConnectStub(channel).Subscribe(
            connect_pb2.SubscribeRequest(), metadata=(("authorization", f"Bearer {bearer}"),)
        )

        code, _ = await end_of(call)

    assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_stream_ends_when_its_bearer_does(tmp_path: Path) -> None:
    clock = ManualClock()
    async with visited_console(tmp_path, clock=clock, bearer_life=timedelta(hours=1)) as visit:
        bearer = await visit.bearer()
        clock.jump(3599.9)

        async with visit.subscribed(bearer) as call:
            code, details = await end_of(call)

    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "expired" in details


async def test_a_stream_ends_when_the_token_is_rotated(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit, visit.subscribed(await visit.bearer()) as call:
        rotate_token(visit.console.store, visit.cluster)

        await poked(visit)

        code, details = await end_of(call)
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert "rotated" in details


async def test_replicas_are_told_apart_by_instance_and_else_by_host_name(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        bearer = await visit.bearer()
        async with (
            visit.subscribed(bearer, hostname="host", instance="i-1"),
            visit.subscribed(bearer, hostname="host", instance="i-2"),
            visit.subscribed(bearer, hostname="other"),
        ):
            await visit.console.presence.written()
            during = visit.console.store.sightings.replicas(visit.cluster.id)

    assert [(each.hostname, each.instance, each.version) for each in during] == [
        ("host", "i-1", "1.2.3"),
        ("host", "i-2", "1.2.3"),
        ("other", "other", "1.2.3"),
    ]
    assert all(each.connected for each in during)


async def test_a_replica_that_left_is_not_connected_any_more(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        async with visit.subscribed(await visit.bearer()):
            await visit.console.presence.written()
        async with asyncio.timeout(5):
            async for streams in visit.console.presence.streams.follow():
                if streams == 0:
                    break
            await visit.console.presence.written()

        assert not visit.console.store.sightings.replicas(visit.cluster.id)[0].connected


async def test_a_console_that_starts_again_does_not_believe_in_old_streams(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit, visit.subscribed(await visit.bearer()):
        await visit.console.presence.written()
        with open_store(tmp_path, create=False) as store:
            assert store.sightings.replicas(visit.cluster.id)[0].connected
            store.sightings.start_over()

            assert not store.sightings.replicas(visit.cluster.id)[0].connected


async def test_the_control_socket_says_where_the_console_is(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        said = await asyncio.to_thread(ask, tmp_path, {"op": "describe"})
        nonsense = await asyncio.to_thread(ask, tmp_path, {"op": "dance"})

        assert said == visit.console.describe()
        assert nonsense == {"error": "unknown question"}
        assert visit.console.control_socket.stat().st_mode & 0o777 == 0o600
    assert await asyncio.to_thread(ask, tmp_path, {"op": "describe"}) is None


async def test_a_directory_with_a_long_name_has_a_socket_too(tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 100) / ("b" * 100)

    async with visited_console(deep) as visit:
        assert await asyncio.to_thread(ask, deep, {"op": "describe"}) == visit.console.describe()
