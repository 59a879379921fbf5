"""Tunnels by CONNECT to a TCP upstream, and who may open them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from pomerium_agent.pb.pomerium import config_pb2
from tests.e2e.gate import Gate, bearer, open_gate
from tests.fakes.session_records import session, user

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PATIENCE = 15
PEOPLE = [
    session("ada", "ada"),
    user("ada", "ada@example.com"),
    session("eve", "eve"),
    user("eve", "eve@elsewhere.test"),
]
SHORT = config_pb2.Settings(timeout_read={"seconds": 1}, default_upstream_timeout={"seconds": 1})


def route(url: str, id: str, to: str, **fields: object) -> config_pb2.Route:
    made = config_pb2.Route(id=id, to=[to], **fields)  # type: ignore[arg-type]  # whatever a route has
    setattr(made, "from", url)
    return made


async def test_bytes_go_through_a_tunnel_for_those_who_may_open_it_and_for_as_long_as_they_like() -> None:
    """A5, R-9, R-10, routes 3.1, 3.4, 6.1, 6.2: authorized like any other route, and no HTTP route is a tunnel."""
    async with tcp_echo() as port:
        to = f"tcp://127.0.0.1:{port}"
        routes = (
            route("tcp+https://db.test:5432", "db", to, allowed_domains=["example.com"]),
            route(
                "tcp+https://front.test/cache.test:6379/queue.test:5672", "front", to, allowed_domains=["example.com"]
            ),
            route("tcp+https://open.test:22", "open", to, allow_public_unauthenticated_access=True),
            route("http://web.test", "web", "UPSTREAM", allow_public_unauthenticated_access=True),
        )
        async with open_gate(*routes, settings=SHORT, records=PEOPLE) as gate:
            ada = f"Authorization: {bearer('ada')}"
            statuses = {
                ("db.test:5432", ada): 200,
                ("db.test:5432", ""): 401,
                ("db.test:5432", f"Authorization: {bearer('eve')}"): 403,
                ("db.test:5433", ada): 404,
                ("cache.test:6379", ada): 200,
                ("queue.test:5672", ada): 200,
                ("front.test:443", ada): 404,
                ("open.test:22", ""): 200,
                ("web.test:80", ""): 404,
            }
            assert {asked: await connect_status(gate, *asked) for asked in statuses} == statuses
            assert (await gate.get("open.test:22")).status == 404
            assert (await gate.get("web.test")).status == 200

            async with tunnel(gate, "CONNECT db.test:5432 HTTP/1.1", "Host: db.test:5432", ada) as (status, line):
                assert status == 200
                for sent in (b"\x00\xffbytes", b"x" * 200_000):
                    line[1].write(sent)
                    assert await line[0].readexactly(len(sent)) == sent[::-1]
                await asyncio.sleep(1.5)  # longer than any time limit of a request
                line[1].write(b"still")
                assert await line[0].readexactly(5) == b"llits"


async def test_a_tunnel_may_lead_through_the_next_proxy() -> None:
    """Routes 6.2: an upstream that is no tcp:// one is asked for the tunnel, by the name that the client gave."""
    asked: list[str] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            asked.append((await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[0])
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while read := await reader.read(65536):
                writer.write(read[::-1])
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        to = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        far = route("tcp+https://far.test:22", "far", to, allowed_domains=["example.com"])
        async with open_gate(far, records=PEOPLE) as gate:
            ada = f"Authorization: {bearer('ada')}"
            lines = ("CONNECT far.test:22 HTTP/1.1", "Host: far.test:22")
            async with tunnel(gate, *lines) as (status, _):
                assert status in (302, 401)
            async with tunnel(gate, *lines, ada) as (status, line):
                assert status == 200
                line[1].write(b"hello")
                assert await line[0].readexactly(5) == b"olleh"
    assert asked == ["CONNECT far.test:22 HTTP/1.1"]


async def connect_status(gate: Gate, authority: str, header: str) -> int:
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", "Accept: application/json"]
    async with tunnel(gate, *lines, *([header] if header else [])) as (status, _):
        return status


@asynccontextmanager
async def tunnel(
    gate: Gate, *lines: str
) -> AsyncIterator[tuple[int, tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
    """The status of the answer, and the connection from there on."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        try:
            writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            yield int(head.split()[1]), (reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def tcp_echo() -> AsyncIterator[int]:
    """A TCP server that sends back whatever it read at once, back to front, unless it is very long."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            pending = b""
            while read := await reader.read(65536):
                pending += read
                if pending.startswith(b"x") and len(pending) < 200_000:
                    continue
                writer.write(pending[::-1])
                pending = b""
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
