"""An ext_authz server on a unix socket: `ours`, or `grpc` (aio) with the same handler. Arguments: which, and where."""

import asyncio
import socket
import sys

import grpc

from pomerium_agent.authorize import check, serve_authorize
from pomerium_agent.runtime.log import configure_logging

SERVICE, METHOD = "envoy.service.auth.v3.Authorization", "Check"


async def serve(kind: str, path: str) -> None:
    """Serve until killed. Without the line of the authorize log, which costs both the same."""
    configure_logging("warning", service="bench")
    if kind == "ours":
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen()
        async with serve_authorize(sock, check):
            await asyncio.Event().wait()
        return

    async def answer(request: bytes, _context: object) -> bytes:
        return check(request)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {METHOD: grpc.unary_unary_rpc_method_handler(answer)}),)
    )
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
