"""The ext_authz service on a real unix socket, asked by a real gRPC client."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest
import structlog

from pomerium_agent.authorize.check import check
from pomerium_agent.authorize.server import serve_authorize
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2_grpc import AuthorizationStub

METHOD = "/envoy.service.auth.v3.Authorization/Check"


def listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


@asynccontextmanager
async def client(path: Path) -> AsyncIterator["grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"]:
    """Raw bytes to raw bytes, over one connection."""
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        yield channel.unary_unary(METHOD, request_serializer=bytes, response_deserializer=bytes)


async def test_the_real_client_gets_the_real_answer(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serve_authorize(listen(path), check), grpc.aio.insecure_channel(f"unix:{path}") as channel:
        stub = AuthorizationStub(channel)

        answer: CheckResponse = await stub.Check(CheckRequest(), timeout=10)

    assert answer.denied_response.status.code == 404


async def test_a_large_question_and_a_large_answer_arrive_whole(tmp_path: Path) -> None:
    path = tmp_path / "s"
    question = os.urandom(72 * 1024)
    async with serve_authorize(listen(path), lambda m: m * 10), client(path) as ask:
        answer = await ask(question)

    assert answer == question * 10


async def test_many_calls_at_once_each_get_their_own_answer(tmp_path: Path) -> None:
    path = tmp_path / "s"
    questions = [str(n).encode() * 50 for n in range(200)]
    async with serve_authorize(listen(path), lambda m: m[::-1]), client(path) as ask:
        answers = await asyncio.gather(*(ask(question) for question in questions))

    assert answers == [question[::-1] for question in questions]


async def test_an_answer_may_take_its_time_without_holding_up_others(tmp_path: Path) -> None:
    path = tmp_path / "s"
    gate = asyncio.Event()

    async def later() -> bytes:
        await gate.wait()
        return b"slow"

    def answer(message: bytes) -> bytes | Awaitable[bytes]:
        return later() if message == b"slow" else b"fast"

    async with serve_authorize(listen(path), answer), client(path) as ask:
        slow = ask(b"slow")
        fast = await ask(b"fast")
        gate.set()

        assert (await slow, fast) == (b"slow", b"fast")


async def test_work_for_a_cancelled_call_stops(tmp_path: Path) -> None:
    path = tmp_path / "s"
    began, stopped = asyncio.Event(), asyncio.Event()

    async def never() -> bytes:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return b""

    async with serve_authorize(listen(path), lambda m: b"now" if m else never()), client(path) as ask:
        call = ask(b"")
        await began.wait()
        call.cancel()
        await asyncio.wait_for(stopped.wait(), 10)

        assert await ask(b"x") == b"now"


async def test_an_error_in_one_check_fails_that_call_and_no_other(tmp_path: Path) -> None:
    """A-2: Envoy answers a failed call with 503."""
    path = tmp_path / "s"

    async def broken() -> bytes:
        raise LookupError("a cookie in a message")

    def answer(message: bytes) -> bytes | Awaitable[bytes]:
        if message == b"at once":
            raise LookupError("a cookie in a message")
        return broken() if message == b"later" else b"fine"

    with structlog.testing.capture_logs() as logs:
        async with serve_authorize(listen(path), answer), client(path) as ask:
            calls = [ask(b"at once"), ask(b"later"), ask(b"other")]
            answers = await asyncio.gather(*calls, return_exceptions=True)

    assert answers[2] == b"fine"
    for failed in answers[:2]:
        assert isinstance(failed, grpc.aio.AioRpcError)
        assert failed.code() is grpc.StatusCode.INTERNAL
        assert "cookie" not in str(failed.details())
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["check failed", "check failed"]


async def test_garbage_ends_its_own_connection_only(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with serve_authorize(listen(path), lambda m: m), client(path) as ask:
        await ask(b"x")
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        reply = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()

        assert b"this is not HTTP/2" in reply
        assert await ask(b"y") == b"y"


async def test_a_client_that_does_not_read_is_not_read_from(tmp_path: Path) -> None:
    path = tmp_path / "s"
    ping = b"\0\0\x08\x06\0\0\0\0\0" + bytes(8)
    async with serve_authorize(listen(path), lambda m: m):
        with socket.socket(socket.AF_UNIX) as stubborn:
            stubborn.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(stubborn, str(path))
            await loop.sock_sendall(stubborn, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0")

            with pytest.raises(TimeoutError):  # the server stops taking pings that would be answered into memory
                await asyncio.wait_for(loop.sock_sendall(stubborn, ping * 1_000_000), 2)


async def test_other_users_are_refused(tmp_path: Path) -> None:
    """Envoy.md 2.2: the endpoint decides authorization, so only our own user and root may ask."""
    path = tmp_path / "s"
    with structlog.testing.capture_logs() as logs:
        async with serve_authorize(listen(path), lambda m: m, allowed_uids={os.geteuid() + 1}), client(path) as ask:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await ask(b"x")

    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert logs[0]["event"] == "authorize connection refused"
    assert logs[0]["uid"] == os.geteuid()


async def test_callers_between_two_agents_wait_for_the_next_one(tmp_path: Path) -> None:
    """Envoy.md 5: the listening socket outlives the agent."""
    path = tmp_path / "s"
    kept = listen(path)

    async with serve_authorize(kept.dup(), lambda m: b"first"), client(path) as ask:
        first = await ask(b"")
    async with client(path) as ask:
        waiting = ask(b"")
        async with serve_authorize(kept.dup(), lambda m: b"second"):
            second = await asyncio.wait_for(waiting, 10)
    kept.close()

    assert (first, second) == (b"first", b"second")
    assert path.exists()


async def test_a_hand_over_under_load_loses_no_call(tmp_path: Path) -> None:
    """Envoy.md 5: stop accepting, GOAWAY, serve on."""
    path = tmp_path / "s"
    kept = listen(path)
    served = {name: asyncio.Event() for name in (b"0", b"1", b"2", b"3")}

    async def load() -> int:
        calls = 0
        async with client(path) as ask:
            while not served[b"3"].is_set():
                served[await ask(b"x")].set()
                calls += 1
        return calls

    async with asyncio.TaskGroup() as tasks:
        loads: list[asyncio.Task[int]] = []
        for name, event in served.items():
            async with serve_authorize(kept.dup(), partial(say, name)):
                loads = loads or [tasks.create_task(load()) for _ in range(4)]
                await asyncio.wait_for(event.wait(), 20)
                if name == b"3":
                    await asyncio.wait(loads)
    kept.close()

    assert sum(task.result() for task in loads) >= 4


def say(answer: bytes, _question: bytes) -> bytes:
    return answer
