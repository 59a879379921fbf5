"""The implementations that every contract test of a Backend runs over, and the words those tests are written in."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct

from pomerium_agent import databroker
from pomerium_agent.databroker import Backend, Databroker, MemoryBackend
from pomerium_agent.databroker.postgres import open_postgres
from pomerium_agent.databroker.remote import RemoteBackend
from pomerium_agent.databroker.sqlite import open_sqlite
from pomerium_agent.pb.pomerium import session_pb2, user_pb2
from pomerium_agent.records import Cursor, Record, pack, type_url
from pomerium_agent.runtime.health import Health
from tests.fakes.clock import ManualClock
from tests.fakes.postgres import Postgres
from tests.fakes.remote_backend import remote, served

SESSION = type_url(session_pb2.Session)
USER = type_url(user_pb2.User)
DIRECTORY_USER = "pomerium.io/DirectoryUser"
SOON = 5.0  # seconds within which what should happen has happened
EVERYTHING = 1_000_000


@dataclass(frozen=True, slots=True)
class Store:
    """An open backend, and the clock it was given."""

    backend: Backend
    clock: ManualClock


OpenStore = Callable[[], AbstractAsyncContextManager[Store]]


@asynccontextmanager
async def open_memory() -> AsyncIterator[Store]:
    clock = ManualClock()
    backend = MemoryBackend(clock)
    try:
        yield Store(backend, clock)
    finally:
        await backend.close()


@asynccontextmanager
async def open_wire() -> AsyncIterator[Store]:
    """The records in memory, asked over TCP by a client that knows the specification and none of our messages."""
    async with open_memory() as store, remote(store.backend, store.clock) as backend:
        yield Store(backend, store.clock)


class NextAgents(RemoteBackend):
    """What one agent has of another's records while it takes over; what only the owner does goes to the owner."""

    def __init__(self, socket: Path, behind: Backend) -> None:
        super().__init__(socket)
        self._behind = behind

    async def set_checkpoint(self, checkpoint: Cursor) -> None:
        await self._behind.set_checkpoint(checkpoint)

    async def clean_up(self) -> None:
        await self.server_info()  # what was asked before is under way
        await self._behind.clean_up()

    async def close(self) -> None:
        await self.server_info()
        await self._behind.close()


@asynccontextmanager
async def open_next_agents() -> AsyncIterator[Store]:
    """The records in memory, asked over the private socket by an agent that comes to take over."""
    with TemporaryDirectory(prefix="db-") as directory:
        socket = Path(directory) / "databroker.sock"
        async with open_memory() as store, served(store.backend, store.clock, listener=None, path=socket):
            backend = NextAgents(socket, store.backend)
            try:
                yield Store(backend, store.clock)
            finally:
                await RemoteBackend.close(backend)


@asynccontextmanager
async def open_file() -> AsyncIterator[Store]:
    clock = ManualClock()
    with TemporaryDirectory(prefix="pb-") as directory:
        backend = await open_sqlite(f"file://{directory}/store", clock)
        try:
            yield Store(backend, clock)
        finally:
            await backend.close()


@asynccontextmanager
async def open_replaceable() -> AsyncIterator[Store]:
    """What the agent works with: a store that another could replace."""
    clock = ManualClock()
    backend = Databroker(databroker.Store(MemoryBackend(clock)))
    try:
        yield Store(backend, clock)
    finally:
        await backend.close()


# A new backend adds its name here, and passes.
IMPLEMENTATIONS: dict[str, OpenStore] = {
    "file": open_file,
    "memory": open_memory,
    "next agent's": open_next_agents,
    "replaceable": open_replaceable,
    "wire": open_wire,
}


@asynccontextmanager
async def open_in_postgres(postgres: Postgres) -> AsyncIterator[Store]:
    """On a real server, which goes by the clock of the test as well: leases expire by the hour of the database."""
    async with postgres.database() as database:
        clock, connection = database.clock_by_hand()
        async with open_postgres(connection, clock, Health()) as backend:
            yield Store(backend, clock)


# Those that need a server, which is started once for all tests.
ON_A_SERVER: dict[str, Callable[[Postgres], AbstractAsyncContextManager[Store]]] = {"postgres": open_in_postgres}


def session(id: str, user_id: str = "", *, subject: str = "", access_token: str = "", refresh: str = "") -> Record:
    """A session record; empty parts are absent."""
    message = session_pb2.Session(id=id, user_id=user_id)
    if subject:
        message.id_token.subject = subject
    if access_token:
        message.oauth_token.access_token = access_token
    if refresh:
        message.oauth_token.refresh_token = refresh
    return Record(type=SESSION, id=id, data=pack(message))


def user(id: str, name: str = "", email: str = "") -> Record:
    return Record(type=USER, id=id, data=pack(user_pb2.User(id=id, name=name, email=email)))


def struct(type: str, id: str, fields: Mapping[str, object] | None = None) -> Record:
    """A record of free type whose data is a Struct, as directory sync and bundle cache write it."""
    return Record(type=type, id=id, data=pack(ParseDict(dict(fields or {}), Struct())))


def gone(type: str, id: str) -> Record:
    """The request to delete a record, without data."""
    return Record(type=type, id=id, deleted_at=datetime(2000, 1, 1, tzinfo=UTC))


def session_in(record: Record) -> session_pb2.Session:
    assert record.data is not None
    return session_pb2.Session.FromString(record.data.value)


async def origin(backend: Backend) -> Cursor:
    """The cursor before everything the store ever saw."""
    return Cursor((await backend.server_info()).server_version, 0)


async def end(backend: Backend) -> Cursor:
    return (await backend.server_info()).cursor


async def first(count: int, changes: AsyncGenerator[Record, None]) -> list[Record]:
    """The next `count` changes; fails when they do not come."""
    found: list[Record] = []
    async with asyncio.timeout(SOON), aclosing(changes):
        async for change in changes:
            found.append(change)
            if len(found) == count:
                return found
    raise AssertionError(f"the changes ended after {len(found)} of {count}")


async def so_far(backend: Backend, after: Cursor, type: str = "") -> list[Record]:
    """Every change after the cursor that is in the log now."""
    async with asyncio.timeout(SOON), aclosing(backend.changes(after, type, wait=False)) as changes:
        return [change async for change in changes]


async def current_ids(backend: Backend, type: str = "") -> list[str]:
    return [record.id for record in (await backend.latest(type))[1]]


async def found_ids(
    backend: Backend, type: str, filter: Mapping[str, object] | None = None, text: str = ""
) -> list[str]:
    return [r.id for r in (await backend.query(type, filter=filter, text=text, limit=EVERYTHING)).records]
