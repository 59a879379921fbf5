"""The ext_authz service on its unix socket: takes connections, asks for each call, answers, and leaves politely."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from typing import cast

import structlog

from pomerium_agent.authorize.frames import GrpcStatus
from pomerium_agent.authorize.h2 import Call, GrpcConnection
from pomerium_agent.runtime.log import together

log = structlog.get_logger(__name__)

Check = Callable[[bytes], bytes | Awaitable[bytes]]

GRACE = 0.5  # seconds in which a client that was told to go elsewhere may still be served (envoy.md 5)
BACKLOG = 1024
CREDENTIALS = struct.Struct("3i")  # SO_PEERCRED: pid, uid, gid


@asynccontextmanager
async def serve_authorize(
    sock: socket.socket, check: Check, *, grace: float = GRACE, allowed_uids: Collection[int] | None = None
) -> AsyncIterator[None]:
    """Answer ext_authz calls on the listening unix socket `sock`, which is ours from now on, while the block runs.

    `check` maps a serialized CheckRequest to a serialized CheckResponse. It may answer at once, or return an
    awaitable when it has to wait; that is cancelled when Envoy no longer wants the answer. An error in it fails
    that one call, and Envoy answers the visitor with 503. Only processes of `allowed_uids` may ask: unless told
    otherwise, our own user and root.

    On the way out nothing more is accepted: callers that connect from now on wait in the queue of the socket,
    which others hold too, for the next agent. Those already connected are told to go, and served for `grace`
    seconds while they do.
    """
    room = _Room()
    uids = {os.geteuid(), 0} if allowed_uids is None else allowed_uids
    with sock:
        async with asyncio.TaskGroup() as tasks:
            # Not create_unix_server: from Python 3.13 that removes the path of the socket, which is not ours.
            server = await asyncio.get_running_loop().create_server(
                lambda: _Peer(check, tasks, room, uids), sock=sock, backlog=BACKLOG
            )
            try:
                yield
            finally:
                server.close()
                try:
                    await room.see_off(grace)
                finally:
                    room.clear()
                await room.empty()


class _Room:
    """Who is connected right now."""

    def __init__(self) -> None:
        self._peers: set[_Peer] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def enter(self, peer: "_Peer") -> None:
        self._peers.add(peer)
        self._empty.clear()

    def leave(self, peer: "_Peer") -> None:
        self._peers.discard(peer)
        if not self._peers:
            self._empty.set()

    async def empty(self) -> None:
        await self._empty.wait()

    async def see_off(self, grace: float) -> None:
        """Ask all to leave, wait until they have, or `grace` seconds."""
        for peer in tuple(self._peers):
            peer.ask_to_leave()
        try:
            async with asyncio.timeout(grace):
                await self.empty()
        except TimeoutError:
            log.info("authorize calls cut", connections=sum(peer.busy for peer in self._peers))

    def clear(self) -> None:
        for peer in tuple(self._peers):
            peer.cut()


class _Peer(asyncio.Protocol):
    """One connection of Envoy (one per worker)."""

    _transport: asyncio.Transport

    def __init__(self, check: Check, tasks: asyncio.TaskGroup, room: _Room, uids: Collection[int]) -> None:
        self._check = check
        self._tasks = tasks
        self._room = room
        self._uids = uids
        self._connection = GrpcConnection()
        self._waiting: dict[int, asyncio.Task[None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Streams have these; not to be asserted, for uvloop's are of no class of asyncio.
        self._transport = cast(asyncio.Transport, transport)
        self._room.enter(self)
        uid = _peer_uid(self._transport)
        if uid not in self._uids:
            log.warning("authorize connection refused", uid=uid, allowed=sorted(self._uids))
            self._transport.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        for task in self._waiting.values():
            task.cancel()
        self._room.leave(self)

    def data_received(self, data: bytes) -> None:
        with together():  # the lines of these checks are in the log before their answers are given
            for event in self._connection.receive(data):
                if isinstance(event, Call):
                    self._take(event)
                else:
                    self._forget(event.stream)
        self._flush()

    def pause_writing(self) -> None:
        """The peer does not read its answers, so we read no more of its questions."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    @property
    def busy(self) -> bool:
        return not self._connection.idle

    def ask_to_leave(self) -> None:
        self._connection.shut_down()
        self._flush()

    def cut(self) -> None:
        self._connection.finish()
        self._flush()
        if self._transport.get_write_buffer_size():
            self._transport.abort()

    def _take(self, call: Call) -> None:
        try:
            answer = self._check(call.message)
            if isinstance(answer, bytes):
                self._connection.answer(call.stream, answer)
            else:
                self._waiting[call.stream] = self._tasks.create_task(self._answer_later(call, answer))
        except Exception:  # noqa: BLE001  # the edge of one check, and it is told of
            self._fail(call)

    async def _answer_later(self, call: Call, answer: Awaitable[bytes]) -> None:
        try:
            self._connection.answer(call.stream, await answer)
        except Exception:  # noqa: BLE001  # the edge of one check, and it is told of
            self._fail(call)
        finally:
            self._waiting.pop(call.stream, None)
        self._flush()

    def _fail(self, call: Call) -> None:
        """Whatever is wrong in one check fails that call, closed, and no other; Envoy answers 503 (A-2)."""
        log.exception("check failed")
        self._connection.fail(call.stream, GrpcStatus.INTERNAL, "the check failed; the agent's log says why")

    def _forget(self, stream: int) -> None:
        task = self._waiting.pop(stream, None)
        if task is not None:
            task.cancel()

    def _flush(self) -> None:
        if self._transport.is_closing():
            return
        data = self._connection.data_to_send()
        if data:
            self._transport.write(data)
        if self._connection.closed:
            self._transport.close()


def _peer_uid(transport: asyncio.Transport) -> int:
    peer: socket.socket = transport.get_extra_info("socket")
    uid: int = CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))[1]
    return uid
