"""A Backend that is somebody else's process away: every call of it goes over TCP, to the gRPC service and back."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict

from pomerium_agent.databroker import Backend, Found, Options, ServerInfo, Written
from pomerium_agent.databroker.service import Limits, Listener, Service, serve_databroker
from pomerium_agent.databroker.service.streams import USUAL
from pomerium_agent.databroker.service.token import sign
from pomerium_agent.errors import (
    AgentError,
    CursorExpired,
    DatabrokerUnavailable,
    InvalidRequest,
    RecordNotFound,
    Unsupported,
)
from pomerium_agent.records import Cursor, Payload, Record
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Health
from pomerium_agent.runtime.latest import Latest
from tests.fakes.databroker_wire import WireClient, message, wire_client

KEY = bytes(range(32))
FAR_AWAY = 10**11  # the clocks of some tests jump by hours while a call is under way
LOOPBACK = Listener(host="127.0.0.1", port=0)
ERRORS: Mapping[grpc.StatusCode, type[AgentError]] = {
    grpc.StatusCode.NOT_FOUND: RecordNotFound,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNIMPLEMENTED: Unsupported,
    grpc.StatusCode.ABORTED: CursorExpired,
    grpc.StatusCode.UNAVAILABLE: DatabrokerUnavailable,
}


@asynccontextmanager
async def served(
    backend: Backend,
    clock: Clock,
    *,
    listener: Listener | None = LOOPBACK,
    key: bytes = KEY,
    path: Path | None = None,
    limits: Limits = USUAL,
) -> AsyncIterator[Service]:
    """The service of a backend; yields when its TCP port is open, if it is to have one."""
    with TemporaryDirectory(prefix="db-") as name:
        async with serve_databroker(
            backend,
            key=key,
            socket_path=path or Path(name) / "databroker.sock",
            wanted=Latest(listener),
            clock=clock,
            health=Health(),
            envoy_version="1.2.3",
            limits=limits,
        ) as service:
            if listener is not None:
                async for port in service.port.follow():
                    if port:
                        break
            yield service


class RemoteBackend:
    """The promise of a Backend, kept by the wire. What the protocol has no call for goes to the store behind."""

    def __init__(self, wire: WireClient, behind: Backend) -> None:
        self._wire = wire
        self._behind = behind
        self._holders: dict[tuple[str, str], str] = {}

    async def server_info(self) -> ServerInfo:
        info = await self._ask("ServerInfo")
        return ServerInfo(info.server_version, info.earliest_record_version, info.latest_record_version)

    async def get(self, type: str, id: str) -> Record:
        with _errors(about=id):
            return _record((await self._wire.call("Get", type=type, id=id)).record)

    async def put(self, records: Sequence[Record]) -> Written:
        answer = await self._ask("Put", records=[_message(record) for record in records])
        return Written(answer.server_version, tuple(map(_record, answer.records)))

    async def patch(self, records: Sequence[Record], fields: Sequence[str]) -> Written:
        request = message("databroker", "PatchRequest", records=[_message(record) for record in records])
        request.field_mask.paths.extend(fields)
        with _errors():
            answer = await self._wire.send("Patch", request)
        return Written(answer.server_version, tuple(map(_record, answer.records)))

    async def query(
        self, type: str, *, text: str = "", filter: Mapping[str, object] | None = None, offset: int = 0, limit: int
    ) -> Found:
        request = message("databroker", "QueryRequest", type=type, query=text, offset=offset, limit=limit)
        if filter is not None:
            request.filter.SetInParent()
            ParseDict(_lists(filter), request.filter)
        with _errors():
            answer = await self._wire.send("Query", request)
        return Found(
            tuple(map(_record, answer.records)), answer.total_count, answer.server_version, answer.record_version
        )

    async def list_types(self) -> tuple[str, ...]:
        return tuple((await self._ask("ListTypes")).types)

    async def get_options(self, type: str) -> Options | None:
        try:
            answer = await self._ask("GetOptions", type=type)
        except RecordNotFound:
            return None
        found = answer.options
        return Options(
            capacity=found.capacity if found.HasField("capacity") else None,
            indexable_fields=tuple(found.indexable_fields),
            ttl=found.ttl.ToTimedelta() if found.HasField("ttl") else None,
        )

    async def set_options(self, type: str, options: Options) -> None:
        wanted = message("databroker", "Options", indexable_fields=options.indexable_fields)
        if options.capacity is not None:
            if options.capacity < 0:
                raise InvalidRequest("the wire has no capacity less than none")
            wanted.capacity = options.capacity
        if options.ttl is not None:
            wanted.ttl.FromTimedelta(options.ttl)
        await self._ask("SetOptions", type=type, options=wanted)

    async def clear(self) -> tuple[int, int]:
        answer = await self._ask("Clear")
        return answer.old_server_version, answer.new_server_version

    async def lease(self, name: str, holder: str, ttl: timedelta) -> bool:
        """Holders of the wire are given their names; whoever has one renews, and a stranger acquires."""
        request = message("databroker", "RenewLeaseRequest", name=name, id=holder)
        request.duration.FromTimedelta(ttl)
        try:
            with _errors():
                await self._wire.send("RenewLease", request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
            return False
        return True

    async def release(self, name: str, holder: str) -> None:
        await self._ask("ReleaseLease", name=name, id=holder)

    async def latest(self, type: str = "") -> tuple[Cursor, tuple[Record, ...]]:
        records: list[Record] = []
        cursor: Cursor | None = None
        with _errors():
            async for answer in self._wire.call("SyncLatest", type=type):
                assert cursor is None, "nothing comes after the versions (D-5)"
                match answer.WhichOneof("response"):
                    case "record":
                        records.append(_record(answer.record))
                    case "versions":
                        cursor = Cursor(answer.versions.server_version, answer.versions.latest_record_version)
        assert cursor is not None, "the versions come, in any case (D-5)"
        return cursor, tuple(records)

    async def changes(self, after: Cursor, type: str = "", *, wait: bool = True) -> AsyncGenerator[Record, None]:
        fields: dict[str, Any] = {} if wait else {"wait": False}
        call = self._wire.call(
            "Sync", server_version=after.server_version, record_version=after.record_version, type=type, **fields
        )
        try:
            with _errors():
                async for answer in call:
                    if answer.WhichOneof("response") == "record":
                        yield _record(answer.record)
        finally:
            call.cancel()

    async def checkpoint(self) -> Cursor:
        found = (await self._ask("GetCheckpoint")).checkpoint
        return Cursor(found.server_version, found.record_version)

    async def set_checkpoint(self, checkpoint: Cursor) -> None:
        await self._behind.set_checkpoint(checkpoint)

    async def clean_up(self) -> None:
        await self.server_info()  # what was asked before is under way
        await self._behind.clean_up()

    async def close(self) -> None:
        await self.server_info()
        await self._behind.close()

    async def _ask(self, method: str, **fields: Any) -> Any:
        with _errors():
            return await self._wire.call(method, **fields)


@asynccontextmanager
async def remote(backend: Backend, clock: Clock) -> AsyncIterator[RemoteBackend]:
    """`backend`, by way of TCP."""
    async with (
        served(backend, clock) as service,
        wire_client(f"127.0.0.1:{service.port.value}", lambda: sign(KEY, FAR_AWAY)) as wire,
    ):
        yield RemoteBackend(wire, backend)


@contextmanager
def _errors(about: str = "") -> Iterator[None]:
    """The status as the error of ours that it was; a status that is none of them goes through."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        kind = ERRORS.get(error.code())
        if kind is None:
            raise
        raise kind(f"{error.details()} {about}") from None


def _message(record: Record) -> Any:
    found = message("databroker", "Record", version=record.version, type=record.type, id=record.id)
    if record.data is not None:
        found.data.SetInParent()
        found.data.type_url, found.data.value = record.data.type_url, record.data.value
    if record.modified_at is not None:
        found.modified_at.FromDatetime(record.modified_at)
    if record.deleted_at is not None:
        found.deleted_at.FromDatetime(record.deleted_at)
    return found


def _record(found: Any) -> Record:
    return Record(
        type=found.type,
        id=found.id,
        data=Payload(found.data.type_url, found.data.value) if found.HasField("data") else None,
        version=found.version,
        modified_at=found.modified_at.ToDatetime(UTC) if found.HasField("modified_at") else None,
        deleted_at=found.deleted_at.ToDatetime(UTC) if found.HasField("deleted_at") else None,
    )


def _lists(value: Any) -> Any:
    """JSON knows no tuples."""
    if isinstance(value, Mapping):
        return {key: _lists(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_lists(item) for item in value]
    return value
