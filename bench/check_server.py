"""An ext_authz server on a unix socket. Arguments: which, and where.

`ours`, or `grpc` (aio) with the same handler; `constant` is ours on the best loop, and says the same to everything.
"""

import asyncio
import socket
import sys

import grpc

from pomerium_agent.authorize import check, serve_authorize
from pomerium_agent.authorize.admit import ok_response
from pomerium_agent.runtime.log import configure_logging
from pomerium_agent.runtime.loop import run_on_best_loop

# As long as a permission with an assertion.
CONSTANT = ok_response({"x-pomerium-jwt-assertion": "a" * 600, "x-pomerium-claim-email": "u0@bench.test"})
SERVICE, METHOD = "envoy.service.auth.v3.Authorization", "Check"


async def serve(kind: str, path: str) -> None:
    """Serve until killed. Without the line of the authorize log, which costs both the same."""
    configure_logging("warning", service="bench")
    if kind in ("ours", "constant"):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen()
        async with serve_authorize(sock, check if kind == "ours" else lambda _message: CONSTANT):
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
    (run_on_best_loop if sys.argv[1] == "constant" else asyncio.run)(serve(sys.argv[1], sys.argv[2]))
