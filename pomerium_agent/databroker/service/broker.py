"""DataBrokerService and CheckpointService: what each call does, on any Backend (databroker 5)."""

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing

from google.protobuf.empty_pb2 import Empty

from pomerium_agent.databroker.backend import Backend, ServerInfo
from pomerium_agent.databroker.service.calls import CallRefused, Status
from pomerium_agent.databroker.service.wire import duration_of, filter_of, options_message, options_of, records_of
from pomerium_agent.errors import CursorExpired, LeaseTaken, RecordNotFound
from pomerium_agent.pb.pomerium import databroker_pb2 as pb
from pomerium_agent.records import Cursor, record_to_message

MAX_MESSAGE = 4 << 20  # bytes, of what is taken and of what is given (databroker 1, D-12)


class Broker:
    """The calls, in the words of the wire and without it: messages in, messages or an error out."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def get(self, request: pb.GetRequest) -> pb.GetResponse:
        try:
            return pb.GetResponse(record=record_to_message(await self._backend.get(request.type, request.id)))
        except RecordNotFound:
            raise RecordNotFound("record not found") from None  # the words that clients know

    async def put(self, request: pb.PutRequest) -> pb.PutResponse:
        written = await self._backend.put(records_of(request.records))
        return pb.PutResponse(
            server_version=written.server_version, records=[record_to_message(record) for record in written.records]
        )

    async def patch(self, request: pb.PatchRequest) -> pb.PatchResponse:
        written = await self._backend.patch(records_of(request.records), list(request.field_mask.paths))
        return pb.PatchResponse(
            server_version=written.server_version, records=[record_to_message(record) for record in written.records]
        )

    async def query(self, request: pb.QueryRequest) -> pb.QueryResponse:
        """All matches in one message, as the protocol has it: what does not fit is refused, never cut."""
        found = await self._backend.query(
            request.type,
            text=request.query,
            filter=filter_of(request.filter) if request.HasField("filter") else None,
            offset=request.offset,
            limit=request.limit,
        )
        response = pb.QueryResponse(
            total_count=found.total_count, server_version=found.server_version, record_version=found.record_version
        )
        size = 0
        for record in found.records:
            size += len(record.data.value) if record.data is not None else 0
            if size > MAX_MESSAGE:
                raise CallRefused(
                    Status.RESOURCE_EXHAUSTED,
                    f"{len(found.records)} records are more than the {MAX_MESSAGE} bytes that one answer may have; "
                    "ask for fewer at a time, with limit and offset",
                )
            response.records.append(record_to_message(record))
        return response

    async def list_types(self, _request: Empty) -> pb.ListTypesResponse:
        return pb.ListTypesResponse(types=await self._backend.list_types())

    async def get_options(self, request: pb.GetOptionsRequest) -> pb.GetOptionsResponse:
        options = await self._backend.get_options(request.type)
        if options is None:
            raise RecordNotFound("options not found")
        return pb.GetOptionsResponse(options=options_message(options))

    async def set_options(self, request: pb.SetOptionsRequest) -> pb.SetOptionsResponse:
        """Empty options remove what is stored, and that is answered with empty options (V14)."""
        await self._backend.set_options(request.type, options_of(request.options))
        return pb.SetOptionsResponse(options=options_message(await self._backend.get_options(request.type)))

    async def server_info(self, _request: Empty) -> pb.ServerInfoResponse:
        info = await self._backend.server_info()
        return pb.ServerInfoResponse(
            server_version=info.server_version,
            earliest_record_version=info.earliest_record_version,
            latest_record_version=info.latest_record_version,
        )

    async def clear(self, _request: Empty) -> pb.ClearResponse:
        old, new = await self._backend.clear()
        return pb.ClearResponse(old_server_version=old, new_server_version=new)

    async def acquire_lease(self, request: pb.AcquireLeaseRequest) -> pb.AcquireLeaseResponse:
        holder = str(uuid.uuid4())
        if not await self._backend.lease(request.name, holder, duration_of(request.duration)):
            raise LeaseTaken("lease is already taken")
        return pb.AcquireLeaseResponse(id=holder)

    async def renew_lease(self, request: pb.RenewLeaseRequest) -> Empty:
        if not await self._backend.lease(request.name, request.id, duration_of(request.duration)):
            raise LeaseTaken("lease no longer held")
        return Empty()

    async def release_lease(self, request: pb.ReleaseLeaseRequest) -> Empty:
        await self._backend.release(request.name, request.id)
        return Empty()

    async def sync_latest(self, request: pb.SyncLatestRequest) -> AsyncGenerator[pb.SyncLatestResponse, None]:
        """Records, then options, then the versions to go on from (D-5)."""
        cursor, records = await self._backend.latest(request.type)
        for record in records:
            yield pb.SyncLatestResponse(record=record_to_message(record))
        for options in await self._typed_options(request.type):
            yield pb.SyncLatestResponse(options=options)
        versions = pb.Versions(server_version=cursor.server_version, latest_record_version=cursor.record_version)
        yield pb.SyncLatestResponse(versions=versions)

    async def sync(self, request: pb.SyncRequest) -> AsyncGenerator[pb.SyncResponse, None]:
        """Options, then every change after the cursor (D-6). A clear ends it with ABORTED: read everything again."""
        cursor = Cursor(request.server_version, request.record_version)
        _check(cursor, await self._backend.server_info())
        for options in await self._typed_options(request.type):
            yield pb.SyncResponse(options=options)
        wait = request.wait if request.HasField("wait") else True
        async with aclosing(self._backend.changes(cursor, request.type, wait=wait)) as changes:
            async for change in changes:
                yield pb.SyncResponse(record=record_to_message(change))

    async def get_checkpoint(self, _request: pb.GetCheckpointRequest) -> pb.GetCheckpointResponse:
        """Nobody leads: replicas share their records through the store behind them, or have their own (D-42)."""
        stored = await self._backend.checkpoint()
        checkpoint = pb.Checkpoint(server_version=stored.server_version, record_version=stored.record_version)
        return pb.GetCheckpointResponse(checkpoint=checkpoint, is_leader=False)

    async def set_checkpoint(self, _request: pb.SetCheckpointRequest) -> pb.SetCheckpointResponse:
        raise CallRefused(
            Status.UNIMPLEMENTED, "checkpoints are set by replication only", reason="SET_CHECKPOINT_NOT_SUPPORTED"
        )

    async def _typed_options(self, type: str) -> list[pb.TypedOptions]:
        found = []
        for name in (type,) if type else await self._backend.list_types():
            options = await self._backend.get_options(name)
            if options is not None:
                found.append(pb.TypedOptions(typeURL=name, options=options_message(options)))
        return found


def _check(cursor: Cursor, info: ServerInfo) -> None:
    """In the words that clients know, before anything is sent."""
    if cursor.server_version != info.server_version:
        raise CursorExpired("invalid server version")
    if info.earliest_record_version > 0 and cursor.record_version < info.earliest_record_version - 1:
        raise CursorExpired("invalid record version")
