"""A gRPC service by hand, bytes in and bytes out, and the client that speaks to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc import aio

from tests.fakes.authority import Issued

SERVICE = "test.Echo"

Context = aio.ServicerContext[bytes, bytes]
Unary = aio.UnaryUnaryMultiCallable[bytes, bytes]


class GrpcUpstream:
    """The server's side: where it listens, and when its stream may go on."""

    def __init__(self) -> None:
        self.port = 0
        self.go_on = asyncio.Event()

    async def once(self, request: bytes, context: Context) -> bytes:
        """The request, turned round; metadata comes back as well."""
        sent = {key: value for key, value in context.invocation_metadata() or ()}
        await context.send_initial_metadata((("x-seen", str(sent.get("x-sent", ""))),))
        context.set_trailing_metadata((("x-last", "trailer"),))
        return request[::-1]

    async def many(self, request: bytes, _context: Context) -> AsyncIterator[bytes]:
        """One message at once; the others when the test says so."""
        yield b"0"
        await self.go_on.wait()
        for number in range(1, int(request)):
            yield str(number).encode()

    async def both(self, requests: AsyncIterator[bytes], _context: Context) -> AsyncIterator[bytes]:
        """Each message, as it comes."""
        async for request in requests:
            yield request.upper()

    async def fail(self, _request: bytes, context: Context) -> bytes:
        """A status of its own."""
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today")
        raise AssertionError("abort raises")

    async def never(self, _request: bytes, _context: Context) -> bytes:
        """No answer."""
        await asyncio.Event().wait()
        return b""


class Echo:
    """The client's side."""

    def __init__(self, channel: aio.Channel) -> None:
        self._channel = channel
        self.once: Unary = channel.unary_unary(f"/{SERVICE}/Once")
        self.many: aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/{SERVICE}/Many")
        self.both: aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(f"/{SERVICE}/Both")

    def method(self, name: str) -> Unary:
        """Any method of one request and one answer."""
        found: Unary = self._channel.unary_unary(f"/{SERVICE}/{name}")
        return found


@asynccontextmanager
async def serve_grpc(issued: Issued | None = None) -> AsyncIterator[GrpcUpstream]:
    """Serve on a free loopback port; over TLS when there is a certificate."""
    service = GrpcUpstream()
    server = aio.server()
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Once": grpc.unary_unary_rpc_method_handler(service.once),
        "Many": grpc.unary_stream_rpc_method_handler(service.many),
        "Both": grpc.stream_stream_rpc_method_handler(service.both),
        "Fail": grpc.unary_unary_rpc_method_handler(service.fail),
        "Never": grpc.unary_unary_rpc_method_handler(service.never),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    if issued is None:
        service.port = server.add_insecure_port("127.0.0.1:0")
    else:
        credentials = grpc.ssl_server_credentials([(issued.key, issued.certificate)])
        service.port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield service
    finally:
        await server.stop(None)
