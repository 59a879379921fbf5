"""What open streams may cost: readers that do not read, too many of them, and what they hear at the end."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from pomerium_agent.databroker.service import Limits
from pomerium_agent.records import Payload, Record
from tests.contract.stores import SOON, session
from tests.unit.databroker.wire import open_wire, refusal

Code = grpc.StatusCode
IMPATIENT = Limits(stalled_after=0.2, streams_of_peer=2)
FULL = [Record(type="a", id=f"{number:02}", data=Payload("x", bytes(200_000))) for number in range(50)]


async def _read_on(call: Any, seen: list[str]) -> None:
    async with asyncio.timeout(SOON):
        while (answer := await call.read()) is not grpc.aio.EOF:
            seen.append(answer.record.id)


async def test_a_reader_that_stops_reading_is_cut_and_told_so() -> None:
    """Ten megabytes are on their way, and at most what the connection holds is under way.

    Without the probes by which gRPC lets a connection hold more: on a busy machine it may come to hold everything.
    """
    async with open_wire(*FULL, limits=IMPATIENT, options={"grpc.http2.bdp_probe": 0}) as (wire, _, _):
        call = wire.call("SyncLatest")
        seen = [(await call.read()).record.id]

        await wire.call("SyncLatest").initial_metadata()
        # Others find room again once the stalled ones are cut.
        async with asyncio.timeout(SOON):
            while (await refusal(wire.call("Sync", server_version=1)))[0] is not Code.ABORTED:
                pass

        with pytest.raises(grpc.aio.AioRpcError) as cut:
            await _read_on(call, seen)
        assert cut.value.code() is Code.RESOURCE_EXHAUSTED
        assert "not read" in (cut.value.details() or "")
        assert seen == [record.id for record in FULL[: len(seen)]]
        assert len(seen) < len(FULL)


async def test_readers_that_leave_in_the_middle_are_no_errors(caplog: pytest.LogCaptureFixture) -> None:
    with capture_logs() as said:
        for round in range(40):  # about one in six leaves while a message is being written
            async with open_wire(*FULL, limits=Limits(stalled_after=SOON)) as (wire, _, _):
                for call in [wire.call("SyncLatest") for _ in range(3)]:
                    await call.read()
                await asyncio.sleep(round / 1500)

    assert [each for each in said if each["log_level"] not in ("info", "debug")] == []
    assert caplog.records == []


async def test_a_slow_reader_that_reads_gets_everything() -> None:
    async with open_wire(*FULL, limits=Limits(stalled_after=SOON)) as (wire, _, _):
        call, seen = wire.call("SyncLatest"), 0
        async for _ in call:
            await asyncio.sleep(0.01)
            seen += 1

        assert seen == len(FULL) + 1


async def test_one_machine_has_room_for_so_many_streams_and_gets_it_back() -> None:
    async with open_wire(session("a"), limits=IMPATIENT) as (wire, backend, _):
        version = (await backend.server_info()).server_version
        open_now = [wire.call("Sync", server_version=version) for _ in range(2)]
        for call in open_now:
            await call.initial_metadata()

        code, said = await refusal(wire.call("Sync", server_version=version))
        assert code is Code.RESOURCE_EXHAUSTED
        assert "too many streams" in said
        health = wire.stub(health_pb2_grpc.HealthStub).Watch(health_pb2.HealthCheckRequest())
        assert (await refusal(health))[0] is Code.RESOURCE_EXHAUSTED
        await wire.call("ServerInfo")

        open_now[0].cancel()
        async with asyncio.timeout(SOON):
            while True:  # the other end hears of it a moment later
                try:
                    assert [answer async for answer in wire.call("SyncLatest")]
                except grpc.aio.AioRpcError:
                    continue
                break


async def test_a_deadline_of_the_caller_ends_a_stream_and_frees_its_place() -> None:
    async with open_wire(session("a"), limits=IMPATIENT) as (wire, backend, _):
        version = (await backend.server_info()).server_version
        ended = 0
        async with asyncio.timeout(SOON):
            while ended < 5:
                code, _ = await refusal(wire.within(0.05, "Sync", server_version=version))
                ended += code is Code.DEADLINE_EXCEEDED


async def test_reflection_shows_our_services_and_what_is_inside_records_and_nothing_else() -> None:
    """Databroker 1."""

    def ask(**fields: str) -> reflection_pb2.ServerReflectionRequest:
        return reflection_pb2.ServerReflectionRequest(**fields)  # type: ignore[arg-type]

    async with open_wire() as (wire, _, _), asyncio.timeout(SOON):
        call = wire.stub(reflection_pb2_grpc.ServerReflectionStub).ServerReflectionInfo(
            iter(
                [
                    ask(list_services=""),
                    ask(file_containing_symbol="databroker.DataBrokerService"),
                    ask(file_containing_symbol="session.Session"),
                    ask(file_containing_symbol="pomerium.config.Route"),
                    ask(file_containing_symbol="envoy.config.cluster.v3.Cluster"),
                ]
            )
        )
        services, *known, unknown = [answer async for answer in call]

        # The newer name of the same: tools ask for it first, and would take a refusal for the last word.
        newer = wire.channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        assert [answer async for answer in newer(iter([ask(list_services="")]))] == [services]

    assert [each.name for each in services.list_services_response.service] == [
        "databroker.CheckpointService",
        "databroker.DataBrokerService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "registry.Registry",
    ]
    assert all(answer.file_descriptor_response.file_descriptor_proto for answer in known)
    assert unknown.error_response.error_code == Code.NOT_FOUND.value[0]
