"""The records of another agent on this machine, by way of its private databroker socket (databroker 3-8).

Only while one agent takes over from another: the new one reads what the old one has, and the old one writes where
the records have gone.
"""

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.json_format import ParseDict

from pomerium_agent.databroker.backend import Found, Options, ServerInfo, Written
from pomerium_agent.databroker.service.broker import MAX_MESSAGE
from pomerium_agent.databroker.service.wire import options_message, options_of, time_of
from pomerium_agent.errors import (
    AgentError,
    CursorExpired,
    DatabrokerUnavailable,
    InvalidRequest,
    LeaseTaken,
    RecordNotFound,
    Unsupported,
)
from pomerium_agent.pb.pomerium import databroker_pb2 as pb
from pomerium_agent.pb.pomerium import databroker_pb2_grpc as pb_grpc
from pomerium_agent.records import Cursor, Payload, Record

CALL_SECONDS = 10.0
COPY_SECONDS = 60.0  # for all records
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
ERRORS: Mapping[grpc.StatusCode, type[AgentError]] = {
    grpc.StatusCode.NOT_FOUND: RecordNotFound,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
    grpc.StatusCode.ALREADY_EXISTS: LeaseTaken,
    grpc.StatusCode.ABORTED: CursorExpired,
}


class RemoteBackend:
    """A Backend (databroker 12) whose records are those of the agent behind `socket`."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.aio.insecure_channel(f"unix:{socket}", options=OPTIONS)
        self._records = pb_grpc.DataBrokerServiceStub(self._channel)
        self._checkpoints = pb_grpc.CheckpointServiceStub(self._channel)

    async def server_info(self) -> ServerInfo:
        with _errors():
            info = await self._records.ServerInfo(Empty(), timeout=CALL_SECONDS)
        return ServerInfo(info.server_version, info.earliest_record_version, info.latest_record_version)

    async def get(self, type: str, id: str) -> Record:
        with _errors():
            return _record((await self._records.Get(pb.GetRequest(type=type, id=id), timeout=CALL_SECONDS)).record)

    async def put(self, records: Sequence[Record]) -> Written:
        with _errors():
            answer = await self._records.Put(
                pb.PutRequest(records=[_message(record) for record in records]), timeout=CALL_SECONDS
            )
        return Written(answer.server_version, tuple(map(_record, answer.records)))

    async def patch(self, records: Sequence[Record], fields: Sequence[str]) -> Written:
        request = pb.PatchRequest(records=[_message(record) for record in records])
        request.field_mask.paths.extend(fields)
        with _errors():
            answer = await self._records.Patch(request, timeout=CALL_SECONDS)
        return Written(answer.server_version, tuple(map(_record, answer.records)))

    async def query(
        self, type: str, *, text: str = "", filter: Mapping[str, object] | None = None, offset: int = 0, limit: int
    ) -> Found:
        request = pb.QueryRequest(type=type, query=text, offset=offset, limit=limit)
        if filter is not None:
            request.filter.SetInParent()
            ParseDict({key: _lists(value) for key, value in filter.items()}, request.filter)
        with _errors():
            answer = await self._records.Query(request, timeout=CALL_SECONDS)
        return Found(
            tuple(map(_record, answer.records)), answer.total_count, answer.server_version, answer.record_version
        )

    async def list_types(self) -> tuple[str, ...]:
        with _errors():
            return tuple((await self._records.ListTypes(Empty(), timeout=CALL_SECONDS)).types)

    async def get_options(self, type: str) -> Options | None:
        try:
            with _errors():
                answer = await self._records.GetOptions(pb.GetOptionsRequest(type=type), timeout=CALL_SECONDS)
        except RecordNotFound:
            return None
        return options_of(answer.options)

    async def set_options(self, type: str, options: Options) -> None:
        if options.capacity is not None and options.capacity < 0:
            raise InvalidRequest("options: a capacity cannot be less than none")
        request = pb.SetOptionsRequest(type=type, options=options_message(options))
        with _errors():
            await self._records.SetOptions(request, timeout=CALL_SECONDS)

    async def clear(self) -> tuple[int, int]:
        with _errors():
            answer = await self._records.Clear(Empty(), timeout=CALL_SECONDS)
        return answer.old_server_version, answer.new_server_version

    async def lease(self, name: str, holder: str, ttl: timedelta) -> bool:
        request = pb.RenewLeaseRequest(name=name, id=holder)
        request.duration.FromTimedelta(ttl)
        try:
            with _errors():
                await self._records.RenewLease(request, timeout=CALL_SECONDS)
        except LeaseTaken:
            return False
        return True

    async def release(self, name: str, holder: str) -> None:
        with _errors():
            await self._records.ReleaseLease(pb.ReleaseLeaseRequest(name=name, id=holder), timeout=CALL_SECONDS)

    async def latest(self, type: str = "") -> tuple[Cursor, tuple[Record, ...]]:
        records: list[Record] = []
        cursor: Cursor | None = None
        with _errors():
            async for answer in self._records.SyncLatest(pb.SyncLatestRequest(type=type), timeout=COPY_SECONDS):
                match answer.WhichOneof("response"):
                    case "record":
                        records.append(_record(answer.record))
                    case "versions":
                        cursor = Cursor(answer.versions.server_version, answer.versions.latest_record_version)
        if cursor is None:
            raise DatabrokerUnavailable("the other agent's databroker did not send all of its records")
        return cursor, tuple(records)

    async def changes(self, after: Cursor, type: str = "", *, wait: bool = True) -> AsyncGenerator[Record, None]:
        request = pb.SyncRequest(server_version=after.server_version, record_version=after.record_version, type=type)
        if not wait:
            request.wait = False
        call = self._records.Sync(request, timeout=None if wait else COPY_SECONDS)
        try:
            with _errors():
                async for answer in call:
                    if answer.WhichOneof("response") == "record":
                        yield _record(answer.record)
        finally:
            call.cancel()

    async def checkpoint(self) -> Cursor:
        with _errors():
            answer = await self._checkpoints.GetCheckpoint(pb.GetCheckpointRequest(), timeout=CALL_SECONDS)
        return Cursor(answer.checkpoint.server_version, answer.checkpoint.record_version)

    async def set_checkpoint(self, checkpoint: Cursor) -> None:
        raise Unsupported("the checkpoint of another agent's records is not ours to set")

    async def clean_up(self) -> None:
        """Whoever has the records does that."""

    async def close(self) -> None:
        await self._channel.close()


@contextmanager
def _errors() -> Iterator[None]:
    """The status as the error of ours that it was over there."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        kind = ERRORS.get(error.code(), DatabrokerUnavailable)
        raise kind(error.details() or str(error.code())) from None
    except grpc.aio.UsageError as error:  # the channel was closed while somebody still asked
        raise DatabrokerUnavailable("the line to the other agent's databroker was closed") from error


def _message(record: Record) -> pb.Record:
    found = pb.Record(type=record.type, id=record.id)
    if record.data is not None:
        found.data.SetInParent()
        found.data.type_url, found.data.value = record.data.type_url, record.data.value
    if record.deleted_at is not None:
        found.deleted_at.FromDatetime(record.deleted_at)
    return found


def _record(found: pb.Record) -> Record:
    return Record(
        type=found.type,
        id=found.id,
        data=Payload(found.data.type_url, found.data.value) if found.HasField("data") else None,
        version=found.version,
        modified_at=time_of(found.modified_at) if found.HasField("modified_at") else None,
        deleted_at=time_of(found.deleted_at) if found.HasField("deleted_at") else None,
    )


def _lists(value: object) -> object:
    """JSON knows no tuples."""
    if isinstance(value, Mapping):
        return {key: _lists(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    return value
