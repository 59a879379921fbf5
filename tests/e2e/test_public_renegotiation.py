"""An upstream that wants to shake hands again in the middle of a connection, as some old ones do: openssl itself."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.gate import Gate, open_gate
from tests.e2e.test_authorization import route
from tests.fakes.private_ca import PrivateCa

OPENSSL = shutil.which("openssl")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    pytest.mark.skipif(OPENSSL is None, reason="there is no openssl here: install it for this test"),
]

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nagain\n"
SOON = 20.0


@pytest.mark.parametrize("allowed", [True, False])
async def test_an_upstream_may_shake_hands_again_only_where_its_route_says_so(
    allowed: bool,
    tmp_path: Path,
    free_port: Callable[[], int],
) -> None:
    """Routes 1.2 (60): TLS 1.2, where the server asks for it before it answers."""
    ours, port = PrivateCa("ours"), free_port()
    issued = ours.issue("127.0.0.1")
    (tmp_path / "cert.pem").write_bytes(issued.certificate)
    (tmp_path / "key.pem").write_bytes(issued.key)
    assert OPENSSL is not None
    server = await asyncio.create_subprocess_exec(
        OPENSSL, "s_server", "-accept", f"127.0.0.1:{port}", "-tls1_2", "-naccept", "1",
        "-cert", str(tmp_path / "cert.pem"), "-key", str(tmp_path / "key.pem"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        await _says(server.stdout, b"ACCEPT")
        old = route("old", allow_public_unauthenticated_access=True, tls_upstream_allow_renegotiation=allowed)
        old.to[:] = [f"https://127.0.0.1:{port}"]
        old.tls_custom_ca = ours.base64
        async with open_gate(old) as gate:
            asked = asyncio.create_task(_status(gate))
            await _says(server.stdout, b"x-request-id")
            server.stdin.write(b"r\n")  # shake hands again
            await server.stdin.drain()
            if allowed:
                await _says(server.stdout, b"SSL_do_handshake -> 1")
                server.stdin.write(ANSWER)
                await server.stdin.drain()
            status = await asyncio.wait_for(asked, SOON)
    finally:
        if server.returncode is None:
            server.kill()
        await server.communicate()

    assert status == (200 if allowed else 503)


async def _status(gate: Gate) -> int:
    return (await gate.get("old.test")).status


async def _says(output: asyncio.StreamReader, words: bytes) -> None:
    """Read until the server has said so."""
    said = b""
    async with asyncio.timeout(SOON):
        while words.lower() not in said.lower():
            piece = await output.read(4096)
            assert piece, said.decode(errors="replace")
            said += piece
