"""UDP tunnels through a real Envoy with `pomerium-agent connect`: who may open them, what they carry, when they end."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest

from pomerium_agent.pb.pomerium import config_pb2
from tests.e2e.gate import Gate, bearer, open_gate
from tests.e2e.test_public_tunnels import PEOPLE, route, tcp_echo
from tests.e2e.world import eventually
from tests.fakes.golden import self_signed

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PATIENCE = 15
Address = tuple[str, int]
MAY = {"allowed_domains": ["example.com"]}


@dataclass(slots=True, eq=False)
class Sock(asyncio.DatagramProtocol):
    """A UDP socket. As a server it sends everything back, back to front."""

    echoes: bool = False
    heard: asyncio.Queue[tuple[bytes, Address]] = field(default_factory=asyncio.Queue)
    transport: asyncio.DatagramTransport | None = None
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.heard.put_nowait((data, addr))
        if self.echoes:
            self.send(data[::-1], addr)

    def send(self, data: bytes, addr: Address | None = None) -> None:
        assert self.transport is not None
        self.transport.sendto(data, addr)

    async def hear(self) -> bytes:
        async with asyncio.timeout(PATIENCE):
            return (await self.heard.get())[0]

    @property
    def port(self) -> int:
        assert self.transport is not None
        return int(self.transport.get_extra_info("sockname")[1])


@asynccontextmanager
async def sock(to: Address | None = None) -> AsyncIterator[Sock]:
    """A client of `to`; without, a server."""
    made = Sock(echoes=to is None)
    await asyncio.get_running_loop().create_datagram_endpoint(lambda: made, local_addr=("127.0.0.1", 0), remote_addr=to)
    try:
        yield made
    finally:
        assert made.transport is not None
        made.transport.close()
        await made.closed.wait()


@dataclass(frozen=True, slots=True)
class Connect:
    """A running `pomerium-agent connect`, the port it gives, and what it complains of."""

    process: asyncio.subprocess.Process
    address: Address

    async def complains(self) -> str:
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            return (await self.process.stderr.readline()).decode()


@asynccontextmanager
async def connect(gate: Gate, ca: Path, target: str, id: str = "ada", *options: str) -> AsyncIterator[Connect]:
    """For the session `id`; for nobody without."""
    if id:
        token = ca.with_name(id)
        token.write_text(bearer(id).removeprefix("Bearer Pomerium-"))
        options = (*options, "--token-file", str(token))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pomerium_agent", "connect", target, "--proxy", "https://door.test"),
        *("--at", f"127.0.0.1:{gate.port}", "--ca", str(ca), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            host, _, port = (await process.stdout.readline()).decode().split(" ")[0].partition(":")
        yield Connect(process, (host, int(port)))
    finally:
        process.terminate()
        assert await process.wait() == 0


async def test_datagrams_go_both_ways_for_those_who_may_and_flows_end_when_they_carry_nothing(tmp_path: Path) -> None:
    """A6, R-9, R-10, routes 3.1, 6.1, 6.2: over HTTP/2, authorized per flow, beside TCP at the same name and port."""
    chain, key = self_signed("door.test")
    ca = tmp_path / "ca.pem"
    ca.write_text(chain)
    settings = config_pb2.Settings(timeout_read={"seconds": 1}, default_upstream_timeout={"seconds": 1})
    settings.certificates.add(cert_bytes=chain.encode(), key_bytes=key.encode())
    async with sock() as upstream, tcp_echo() as tcp_port:
        to = f"udp://127.0.0.1:{upstream.port}"
        routes = (
            route("tcp+https://dns.test:53", "tcp", f"tcp://127.0.0.1:{tcp_port}", **MAY),
            route("udp+https://dns.test:53", "udp", to, **MAY),
            route("udp+https://front.test/game.test:7777", "front", to, **MAY),
            route("udp+https://brief.test:1", "brief", to, **MAY, idle_timeout={"nanos": 500_000_000}),
            route("https://web.test", "web", "UPSTREAM", allow_public_unauthenticated_access=True),
        )
        async with open_gate(*routes, settings=settings, records=PEOPLE, tls=True) as gate:
            async with (
                connect(gate, ca, "udp://dns.test:53") as near,
                sock(near.address) as one,
                sock(near.address) as two,
                sock(near.address) as three,
            ):
                for number, client in enumerate((one, two, three)):
                    client.send(b"from %d" % number)
                for number, client in enumerate((one, two, three)):
                    assert await client.hear() == (b"from %d" % number)[::-1]
                assert len({(await upstream.heard.get())[1] for _ in range(3)}) == 3
                for payload in (b"\x00\xff", b"large" * 1600):
                    one.send(payload)
                    assert await one.hear() == payload[::-1]
                await asyncio.sleep(1.5)  # longer than any time limit of a request
                two.send(b"still")
                assert await two.hear() == b"llits"

            complaints = {
                ("udp://dns.test:53", "eve"): "does not let you in",
                ("udp+https://dns.test:53", ""): "--token-file",
                ("udp://nowhere.test:53", "ada"): "there is no udp route for nowhere.test:53",
            }
            said = await asyncio.gather(*(complaint(gate, ca, *asked) for asked in complaints))
            assert all(words in line for words, line in zip(complaints.values(), said, strict=True)), said
            async with connect(gate, ca, "dns.test:53") as near:
                reader, writer = await asyncio.open_connection(*near.address)
                writer.write(b"by tcp")
                assert await reader.readexactly(6) == b"pct yb"
                writer.close()
            async with connect(gate, ca, "udp://game.test:7777", "ada", "--idle", "1") as near:
                assert await ports_of(near, upstream) == 2
            async with connect(gate, ca, "udp://brief.test:1") as near:
                assert await ports_of(near, upstream) == 2
            assert (await gate.get("web.test")).status == 200


async def complaint(gate: Gate, ca: Path, target: str, id: str) -> str:
    """What is said to who is not let through."""
    async with connect(gate, ca, target, id) as near, sock(near.address) as client:
        client.send(b"knock")
        return await near.complains()


async def ports_of(near: Connect, upstream: Sock) -> int:
    """From how many ports the upstream hears one client, until it is two."""
    found: set[Address] = set()
    async with sock(near.address) as client:

        async def is_another() -> bool:
            while not upstream.heard.empty():
                upstream.heard.get_nowait()
            client.send(b"hello")
            await client.hear()
            found.add((await upstream.heard.get())[1])
            await asyncio.sleep(1.6)
            return len(found) == 2

        await eventually("the flow was another one", is_another)
    return len(found)
