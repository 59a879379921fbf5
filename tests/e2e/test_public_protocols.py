"""More than plain requests: upgrades, HTTP/2 and gRPC, and how long each of them may take."""

import asyncio

import aiohttp
import grpc
import pytest
from grpc import aio

from tests.e2e.visitor import Visitor, on_stage, route, settings
from tests.fakes.grpc_echo import SERVICE, Echo, serve_grpc
from tests.fakes.raw_server import serve_raw
from tests.fakes.upstream import serve_upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

LIMIT = 1.0  # seconds: the default timeout of the tests


async def test_upgrades_pass_where_they_are_allowed_and_outlive_every_timeout() -> None:
    """R-10, routes 1.2 (13, 44, 93), 1.7 (39, 181), 6.1, 6.2, A4."""

    async def parrot(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        kind = asked.partition("\r\nupgrade: ")[2].partition("\r\n")[0]
        writer.write(f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {kind}\r\n\r\n".encode())
        while data := await reader.read(1024):
            writer.write(data)

    async with serve_upstream() as upstream, serve_raw(parrot) as parrots:
        to = {"to": upstream.url}
        routes = (
            route("chat.DOMAIN", allow_websockets=True, **to),
            route("listed.DOMAIN", allow_upgrades=["WebSocket"], **to),
            route("default.DOMAIN", **to),
            route("none.DOMAIN", allow_upgrades=[], **to),
            route("spdy.DOMAIN", allow_spdy=True, allow_upgrades=[], to=f"http://127.0.0.1:{parrots}"),
            route("parrot.DOMAIN", allow_upgrades=["parrot/1"], to=f"http://127.0.0.1:{parrots}"),
        )
        whole = settings(default_upstream_timeout=f"{LIMIT}s", allow_upgrades=["websocket"])
        async with on_stage(*routes, settings=whole) as stage:
            visitor = stage.visitor

            async with visitor.websocket("chat.DOMAIN", "/room?x=y", protocols=("chat",)) as frames:
                assert frames.protocol == "chat"
                began = asyncio.get_running_loop().time()
                await frames.send_str("hello")
                assert await frames.receive_str() == "hello"
                assert upstream.last.path == "/room?x=y"

                for host in ("listed.DOMAIN", "default.DOMAIN"):
                    async with visitor.websocket(host) as others:
                        await others.send_bytes(b"\0\1")
                        assert await others.receive_bytes() == b"\0\1"
                seen = len(upstream.seen)
                for host in ("none.DOMAIN", "spdy.DOMAIN", "parrot.DOMAIN"):
                    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                        async with visitor.websocket(host):
                            pass
                    assert refused.value.status == 403
                assert len(upstream.seen) == seen

                for host, kind in (("parrot.DOMAIN", "parrot/1"), ("spdy.DOMAIN", "SPDY/3.1")):
                    async with visitor.connect() as line:
                        await line.send(*upgrade(visitor, host, kind))
                        assert (await line.head())[0] == 101
                        line.writer.write(b"squawk")
                        assert (await line.reader.readexactly(6)) == b"squawk"
                for host, kind in (("chat.DOMAIN", "parrot/1"), ("parrot.DOMAIN", "spdy/3.1")):
                    async with visitor.connect() as line:
                        status, _, body = await line.ask(*upgrade(visitor, host, kind))
                        assert (status, body) == (403, b"")

                # A plain request is cut off by the default timeout; the open websocket is not.
                reply = await visitor.ask("none.DOMAIN", "/slow")
                assert reply.status == 504
                assert asyncio.get_running_loop().time() - began > LIMIT
                await frames.send_str("still here")
                assert await frames.receive_str() == "still here"


def upgrade(visitor: Visitor, host: str, kind: str) -> tuple[str, ...]:
    """A request for an upgrade, line by line."""
    return "GET / HTTP/1.1", f"Host: {visitor.name(host)}", "Connection: Upgrade", f"Upgrade: {kind}"


async def test_grpc_passes_from_end_to_end() -> None:
    """Routes 3.3, 6.1, 9.2, A9, R-18: unary, streams in both directions, metadata, trailers, statuses."""
    async with serve_grpc() as service:
        to = {"to": f"h2c://127.0.0.1:{service.port}"}
        routes = (
            route("grpc.DOMAIN", timeout="0s", idle_timeout="0s", **to),
            route("hasty.DOMAIN", timeout="0.3s", **to),
            route("paths.DOMAIN", prefix=f"/{SERVICE}/Fail", **to),
            route("gone.DOMAIN", to="h2c://127.0.0.1:9"),
        )
        async with on_stage(*routes, settings=settings(default_upstream_timeout=f"{LIMIT}s")) as stage:
            visitor = stage.visitor

            async with visitor.grpc("grpc.DOMAIN") as channel:
                echo = Echo(channel)
                call = echo.once(b"abc", metadata=(("x-sent", "hello"),))
                assert await call == b"cba"
                assert ("x-seen", "hello") in list(await call.initial_metadata() or ())
                assert ("x-last", "trailer") in list(await call.trailing_metadata() or ())

                stream = echo.many(b"5")
                assert await stream.read() == b"0"  # not kept back until the stream ends
                service.go_on.set()
                assert [await stream.read() for _ in range(4)] == [b"1", b"2", b"3", b"4"]
                assert await stream.read() is aio.EOF

                talk = echo.both()
                for word in (b"one", b"two"):
                    await talk.write(word)
                    assert await talk.read() == word.upper()
                await talk.done_writing()
                assert await talk.read() is aio.EOF

            assert await status_of(visitor, "grpc.DOMAIN", "Fail") == (grpc.StatusCode.FAILED_PRECONDITION, "not today")
            # What Envoy says by itself is a gRPC status too.
            said = {
                ("hasty.DOMAIN", "Never"): grpc.StatusCode.DEADLINE_EXCEEDED,
                ("paths.DOMAIN", "Once"): grpc.StatusCode.NOT_FOUND,
                ("nobody.DOMAIN", "Once"): grpc.StatusCode.NOT_FOUND,
                ("gone.DOMAIN", "Once"): grpc.StatusCode.UNAVAILABLE,
            }
            assert {asked: (await status_of(visitor, *asked))[0] for asked in said} == said


async def status_of(visitor: Visitor, host: str, method: str) -> tuple[grpc.StatusCode, str | None]:
    """The status that a call ends with."""
    async with visitor.grpc(host) as channel:
        with pytest.raises(aio.AioRpcError) as failed:
            await Echo(channel).method(method)(b"", timeout=10)
    return failed.value.code(), failed.value.details()
