"""The databroker over TCP, asked by a client that was built from the tables of the specification (databroker 5)."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pomerium_agent.databroker import MemoryBackend
from pomerium_agent.databroker.service import Listener, handlers
from pomerium_agent.databroker.service.token import sign
from pomerium_agent.records import Record
from tests.contract.stores import SESSION, SOON, session, struct, user
from tests.fakes.clock import ManualClock
from tests.fakes.databroker_wire import METHODS, message, wire_client
from tests.fakes.remote_backend import FAR_AWAY, KEY, served
from tests.unit.databroker.wire import open_wire, refusal

Code = grpc.StatusCode


async def kinds(call: Any) -> list[str]:
    """What the answers of a stream are, in order; records by their id."""
    async with asyncio.timeout(SOON):
        return [
            answer.record.id if answer.WhichOneof("response") == "record" else answer.WhichOneof("response")
            async for answer in call
        ]


def put(*records: Record) -> Any:
    request = message("databroker", "PutRequest")
    for record in records:
        made = request.records.add(type=record.type, id=record.id)
        if record.data is not None:
            made.data.type_url, made.data.value = record.data.type_url, record.data.value
    return request


# Records


async def test_what_is_put_is_got_listed_and_found() -> None:
    """D-1, D-8, D-9, D-21."""
    async with open_wire() as (wire, _, _):
        written = await wire.send("Put", put(struct("a", "1", {"k": "Needle"}), struct("a", "2"), session("ada")))
        assert [record.version for record in written.records] == [1, 2, 3]
        assert written.records[0].HasField("modified_at")

        got = await wire.call("Get", type="a", id="1")
        assert got.record == written.records[0]
        assert list((await wire.call("ListTypes")).types) == ["a", SESSION]

        request = message("databroker", "QueryRequest", type="", limit=10)
        request.filter.update({"$or": [{"id": "2"}, {"id": ["ada", "nobody"]}]})
        found = await wire.send("Query", request)
        assert [record.id for record in found.records] == ["2", "ada"]
        assert (found.total_count, found.server_version, found.record_version) == (2, written.server_version, 3)
        found = await wire.call("Query", type="a", query="nEEDLE", limit=10)
        assert [record.id for record in found.records] == ["1"]
        found = await wire.call("Query", type="a", limit=0)
        assert (list(found.records), found.total_count) == ([], 2)
        info = await wire.call("ServerInfo")
        assert (info.server_version, info.latest_record_version) == (written.server_version, 3)


async def test_an_answer_says_which_versions_run_here() -> None:
    """Databroker 1: response metadata, of calls and streams."""
    async with open_wire() as (wire, _, _):
        for call in (wire.call("ServerInfo"), wire.call("SyncLatest")):
            said = dict(await call.initial_metadata())
            assert said["x-envoy-version"] == "1.2.3"
            assert said["x-pomerium-version"].startswith("0.37.0")


async def test_what_clients_say_of_time_and_version_is_ignored_even_when_it_is_nonsense() -> None:
    """D-11."""
    async with open_wire() as (wire, backend, clock):
        request = put(session("ada"))
        request.records[0].version = 2**64 - 1
        request.records[0].modified_at.seconds = 2**62

        (record,) = (await wire.send("Put", request)).records

        assert record.version == 1
        assert (await backend.get(SESSION, "ada")).modified_at == clock.now()


@pytest.mark.parametrize(
    ("method", "fields", "code", "text"),
    [
        ("Get", {"type": "a", "id": "x"}, Code.NOT_FOUND, "record not found"),
        ("GetOptions", {"type": ""}, Code.INVALID_ARGUMENT, ""),
        ("GetOptions", {"type": "a"}, Code.NOT_FOUND, ""),
        ("SetOptions", {"type": ""}, Code.INVALID_ARGUMENT, ""),
        ("Query", {"limit": -1}, Code.INVALID_ARGUMENT, ""),
        ("Query", {"offset": -(2**63), "limit": 1}, Code.INVALID_ARGUMENT, ""),
        ("Sync", {"server_version": 1}, Code.ABORTED, "invalid server version"),
        ("SetCheckpoint", {}, Code.UNIMPLEMENTED, "SET_CHECKPOINT_NOT_SUPPORTED"),
    ],
)
async def test_what_cannot_be_answered_has_the_status_that_clients_expect(
    method: str, fields: dict[str, Any], code: grpc.StatusCode, text: str
) -> None:
    """D-4, D-10, D-42."""
    async with open_wire() as (wire, _, _):
        found, said = await refusal(wire.call(method, **fields))

        assert found is code
        assert said.startswith(text)


@pytest.mark.parametrize(
    ("filter", "code"),
    [
        ({"$and": "x"}, Code.INVALID_ARGUMENT),
        ({"a": {}}, Code.INVALID_ARGUMENT),
        ({"id": {"$contains": "x"}}, Code.UNIMPLEMENTED),
        ({"$not": {"id": "x"}}, Code.UNIMPLEMENTED),
    ],
)
async def test_a_filter_that_nobody_can_look_up_says_why(filter: dict[str, Any], code: grpc.StatusCode) -> None:
    """D-4, D-21."""
    async with open_wire() as (wire, _, _):
        request = message("databroker", "QueryRequest", type="a", limit=1)
        request.filter.update(filter)

        found, said = await refusal(wire.send("Query", request))

        assert found is code
        assert said.startswith("filter:")


async def test_a_refusal_with_a_reason_tells_it_to_programs_too() -> None:
    """Databroker 14: ErrorInfo of pomerium.com."""
    async with open_wire() as (wire, _, _):
        call = wire.call("SetCheckpoint")
        await refusal(call)

        details = dict(await call.trailing_metadata())["grpc-status-details-bin"]
        status = status_pb2.Status.FromString(details)
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert (info.reason, info.domain) == ("SET_CHECKPOINT_NOT_SUPPORTED", "pomerium.com")


@pytest.mark.parametrize(("seconds", "nanos"), [(2**62, 0), (-(2**62), 0), (1, -1), (0, 2**31 - 1)])
async def test_times_and_durations_that_are_none_are_refused(seconds: int, nanos: int) -> None:
    async with open_wire() as (wire, _, _):
        request = message("databroker", "AcquireLeaseRequest", name="job")
        request.duration.seconds, request.duration.nanos = seconds, nanos
        assert (await refusal(wire.send("AcquireLease", request)))[0] is Code.INVALID_ARGUMENT

        record = message("databroker", "PutRequest")
        record.records.add(type="a", id="1").deleted_at.seconds = 2**62
        assert (await refusal(wire.send("Put", record)))[0] is Code.INVALID_ARGUMENT


async def test_messages_are_taken_up_to_four_mebibytes_and_answers_are_no_larger() -> None:
    """D-12; what does not fit is refused, not cut."""
    async with open_wire() as (wire, _, _):
        for id in ("1", "2"):
            almost = message("databroker", "PutRequest")
            almost.records.add(type="a", id=id).data.value = bytes((4 << 20) - 100)
            await wire.send("Put", almost)
        almost.records[0].data.value += bytes(100)
        assert (await refusal(wire.send("Put", almost)))[0] is Code.RESOURCE_EXHAUSTED

        code, said = await refusal(wire.call("Query", type="a", limit=2))
        assert code is Code.RESOURCE_EXHAUSTED
        assert "limit" in said


# Streams


async def test_a_first_look_sends_records_then_options_then_the_versions() -> None:
    """D-5."""
    async with open_wire(session("a"), session("b"), user("u")) as (wire, backend, _):
        await wire.send("SetOptions", _options(SESSION, capacity=7))

        assert await kinds(wire.call("SyncLatest", type=SESSION)) == ["a", "b", "options", "versions"]
        assert await kinds(wire.call("SyncLatest")) == ["a", "b", "u", "options", "versions"]
        assert await kinds(wire.call("SyncLatest", type="nothing")) == ["versions"]
        info = await backend.server_info()
        *_, last = [answer async for answer in wire.call("SyncLatest")]
        assert (last.versions.server_version, last.versions.latest_record_version) == (info.server_version, 3)


async def test_a_reader_that_does_not_wait_gets_options_then_changes_and_an_end() -> None:
    """D-6, D-7."""
    async with open_wire(session("a"), user("u"), session("b")) as (wire, backend, _):
        await wire.send("SetOptions", _options(SESSION, capacity=7))
        request = put()
        request.records.add(type=SESSION, id="a").deleted_at.seconds = 1
        await wire.send("Put", request)
        server = (await backend.server_info()).server_version

        answers = [
            answer
            async for answer in wire.call("Sync", server_version=server, type=SESSION, record_version=1, wait=False)
        ]

        assert answers[0].options.typeURL == SESSION
        assert answers[0].options.options.capacity == 7
        assert [(each.record.id, each.record.HasField("deleted_at")) for each in answers[1:]] == [
            ("b", False),
            ("a", True),
        ]


async def test_who_says_nothing_of_waiting_waits() -> None:
    """D-6, C7."""
    async with open_wire() as (wire, backend, _), asyncio.timeout(SOON):
        call = wire.call("Sync", server_version=(await backend.server_info()).server_version)
        await call.initial_metadata()  # it is at work

        for number in range(10):
            await backend.put([session(str(number))])

        assert [(await call.read()).record.id for _ in range(10)] == [str(number) for number in range(10)]


async def test_a_place_that_was_cleaned_up_is_an_invalid_record_version() -> None:
    """C24, D-4."""
    async with open_wire(session("a")) as (wire, backend, clock):
        await backend.put([session("b")])
        clock.jump(2 * 3600)
        await backend.clean_up()

        server = (await backend.server_info()).server_version
        assert await refusal(wire.call("Sync", server_version=server)) == (Code.ABORTED, "invalid record version")


async def test_clear_sends_open_readers_away_to_read_everything_again() -> None:
    """C27, D-19."""
    async with open_wire(session("a")) as (wire, backend, _):
        call = wire.call("Sync", server_version=(await backend.server_info()).server_version, record_version=1)
        await call.initial_metadata()

        answer = await wire.call("Clear")

        assert answer.old_server_version != answer.new_server_version != 0
        assert (await refusal(call))[0] is Code.ABORTED


async def test_a_store_that_closes_is_unavailable_to_readers_and_callers() -> None:
    """C19."""
    async with open_wire() as (wire, backend, _):
        call = wire.call("Sync", server_version=(await backend.server_info()).server_version)
        await call.initial_metadata()

        await backend.close()

        assert (await refusal(call))[0] is Code.UNAVAILABLE
        assert (await refusal(wire.call("ServerInfo")))[0] is Code.UNAVAILABLE


class BrokenBackend(MemoryBackend):
    """Has a bug in one call, and never comes to an end in another."""

    async def get(self, type: str, id: str) -> Record:
        raise KeyError("a token of somebody")

    async def list_types(self) -> tuple[str, ...]:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


async def test_a_bug_fails_one_call_and_tells_nobody_what_it_saw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Databroker 5: UNKNOWN; and a call that does not end by itself is ended, whatever its caller would wait."""
    monkeypatch.setattr(handlers, "CALL_SECONDS", 0.05)
    clock = ManualClock()
    async with (
        served(BrokenBackend(clock), clock) as service,
        wire_client(f"127.0.0.1:{service.port.value}", lambda: sign(KEY, FAR_AWAY)) as wire,
    ):
        code, said = await refusal(wire.call("Get", type="a", id="1"))
        assert code is Code.UNKNOWN
        assert "somebody" not in said
        assert (await refusal(wire.call("ListTypes")))[0] is Code.DEADLINE_EXCEEDED
        await wire.call("ServerInfo")


async def test_health_is_that_of_the_store() -> None:
    """Databroker 1: who watches hears of it a few seconds later."""
    async with open_wire() as (wire, backend, clock), asyncio.timeout(SOON):
        stub = wire.stub(health_pb2_grpc.HealthStub)
        watching = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING

        await backend.close()

        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await clock.until_sleeping(2)  # the watcher, and the sweep of the registry
        await clock.advance(5)
        assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_reader_outlives_a_restart_with_its_records_and_not_one_without() -> None:
    """D-14, D-37: the same port, first with the same store behind it, then with another."""
    clock = ManualClock()
    kept, other = MemoryBackend(clock), MemoryBackend(clock)
    await kept.put([session("a")])
    await other.put([session("x")])
    cursor = {"server_version": (await kept.server_info()).server_version, "record_version": 1}
    options = {"grpc.initial_reconnect_backoff_ms": 50, "grpc.max_reconnect_backoff_ms": 50}

    async with AsyncExitStack() as client:
        async with served(kept, clock) as service:
            at = Listener(host="127.0.0.1", port=service.port.value)
            wire = await client.enter_async_context(
                wire_client(at.authority, lambda: sign(KEY, FAR_AWAY), options=options)
            )
            call = wire.call("Sync", **cursor)
            await call.initial_metadata()
        assert (await refusal(call))[0] is Code.UNAVAILABLE

        await kept.put([session("b")])
        async with served(kept, clock, listener=at):
            assert await kinds(wire.wait_for("Sync", **cursor, wait=False)) == ["b"]

        async with served(other, clock, listener=at):
            assert await refusal(wire.wait_for("Sync", **cursor)) == (Code.ABORTED, "invalid server version")
            assert await kinds(wire.call("SyncLatest")) == ["x", "versions"]


async def test_no_stream_outlives_the_secret_that_it_was_opened_with() -> None:
    """V16, D-2: who reads is sent away, and comes back in with a token of the new secret alone."""
    clock, other_key = ManualClock(), bytes(32)
    backend = MemoryBackend(clock)
    await backend.put([session("a")])
    cursor = {"server_version": (await backend.server_info()).server_version, "record_version": 0}

    async with AsyncExitStack() as clients:
        async with served(backend, clock) as service:
            at = Listener(host="127.0.0.1", port=service.port.value)
            before, after = [
                await clients.enter_async_context(
                    wire_client(
                        at.authority,
                        lambda key=key: sign(key, FAR_AWAY),  # type: ignore[misc]
                        options={"grpc.initial_reconnect_backoff_ms": 50, "grpc.max_reconnect_backoff_ms": 50},
                    )
                )
                for key in (KEY, other_key)
            ]
            reading = before.call("Sync", **cursor)
            assert (await anext(aiter(reading))).record.id == "a"

        async with served(backend, clock, listener=at, key=other_key):
            assert (await refusal(reading))[0] is Code.UNAVAILABLE
            assert await refusal(before.wait_for("Sync", **cursor)) == (Code.UNAUTHENTICATED, "invalid JWT")
            assert await kinds(after.wait_for("Sync", **cursor, wait=False)) == ["a"]


# Options, leases, checkpoints


def _options(type: str, **fields: Any) -> Any:
    request = message("databroker", "SetOptionsRequest", type=type)
    ttl = fields.pop("ttl", None)
    for name, value in fields.items():
        if name == "indexable_fields":
            request.options.indexable_fields.extend(value)
        else:
            setattr(request.options, name, value)
    if ttl is not None:
        request.options.ttl.FromTimedelta(ttl)
    return request


@pytest.mark.parametrize("capacity", [None, 0, 3, 2**64 - 1])
@pytest.mark.parametrize("fields", [(), ("user_id", "a.b")])
@pytest.mark.parametrize("ttl", [None, timedelta(0), timedelta(minutes=15, microseconds=1)])
async def test_options_come_back_exactly(capacity: int | None, fields: tuple[str, ...], ttl: timedelta | None) -> None:
    """C16; empty ones remove what is stored, and that is not an error (V14)."""
    given = {"capacity": capacity} if capacity is not None else {}
    async with open_wire() as (wire, _, _):
        request = _options("a", indexable_fields=fields, ttl=ttl, **given)

        assert (await wire.send("SetOptions", request)).options == request.options
        if request.options.ListFields():
            assert (await wire.call("GetOptions", type="a")).options == request.options

        answer = await wire.send("SetOptions", message("databroker", "SetOptionsRequest", type="a"))
        assert not answer.options.ListFields()
        assert (await refusal(wire.call("GetOptions", type="a")))[0] is Code.NOT_FOUND


async def test_a_lease_is_acquired_renewed_lost_and_given_back() -> None:
    """C5, D-4, D-20."""
    thirty = message("databroker", "AcquireLeaseRequest").duration
    thirty.seconds = 30
    async with open_wire() as (wire, _, clock):
        mine = (await wire.call("AcquireLease", name="job", duration=thirty)).id
        taken = (Code.ALREADY_EXISTS, "lease is already taken")
        assert await refusal(wire.call("AcquireLease", name="job", duration=thirty)) == taken
        await wire.call("RenewLease", name="job", id=mine, duration=thirty)
        await wire.call("ReleaseLease", name="job", id="somebody else")
        assert await refusal(wire.call("AcquireLease", name="job", duration=thirty)) == taken

        clock.jump(31)
        other = (await wire.call("AcquireLease", name="job", duration=thirty)).id
        assert other != mine
        lost = (Code.ALREADY_EXISTS, "lease no longer held")
        assert await refusal(wire.call("RenewLease", name="job", id=mine, duration=thirty)) == lost

        await wire.call("ReleaseLease", name="job", id=other)
        await wire.call("RenewLease", name="job", id=mine, duration=thirty)  # free, so whoever renews has it


async def test_the_checkpoint_can_be_read_and_nobody_leads() -> None:
    """D-42."""
    async with open_wire() as (wire, _, _):
        answer = await wire.call("GetCheckpoint")

        assert (answer.checkpoint.server_version, answer.checkpoint.record_version) == (0, 0)
        assert not answer.is_leader


async def test_a_request_mode_is_ignored_without_a_cluster() -> None:
    """D-43."""
    async with open_wire() as (wire, _, _):
        call: Any = wire.channel.unary_unary("/databroker.DataBrokerService/ServerInfo")

        await call(b"", metadata=(("jwt", sign(KEY, FAR_AWAY)), ("pomerium-cluster-request-mode", "no such mode")))


async def test_every_call_of_the_specification_is_there() -> None:
    """D-1: with an empty request, whatever the answer, it is not that nobody knows the call."""
    async with open_wire() as (wire, _, _):
        for line in METHODS.strip().splitlines():
            service, method, *_ = line.split()
            method_call: Any = wire.channel.unary_stream(f"/{service}/{method}")
            call = method_call(b"", metadata=(("jwt", sign(KEY, FAR_AWAY)),), timeout=30)
            assert dict(await call.initial_metadata())["x-envoy-version"] == "1.2.3", line
            call.cancel()
