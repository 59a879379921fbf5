"""A name server that says what a test wants, and remembers how it was asked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


class Asked(NamedTuple):
    """One question for an IPv4 address."""

    name: str
    tcp: bool
    port: int  # of whoever asked
    at: float  # on the clock of the event loop


@dataclass(eq=False)
class NameServer(asyncio.DatagramProtocol):
    """`names`: an address; an empty one means that it cannot be found out now, and None that nobody is answered."""

    names: dict[str, str | None]
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    _udp: asyncio.DatagramTransport | None = None

    @property
    def address(self) -> str:
        """As resolv.conf has it."""
        return f"127.0.0.1:{self.port}"

    def of(self, name: str) -> list[Asked]:
        return [each for each in self.asked if each.name == name]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._udp = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._answer(data, tcp=False, port=addr[1])
        if answer is not None and self._udp is not None:
            self._udp.sendto(answer, addr)

    async def over_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                port = writer.get_extra_info("peername")[1]
                answer = self._answer(await reader.readexactly(size), tcp=True, port=port)
                if answer is not None:
                    writer.write(len(answer).to_bytes(2, "big") + answer)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _answer(self, data: bytes, *, tcp: bool, port: int) -> bytes | None:
        query = dns.message.from_wire(data)
        (question,) = query.question
        name = str(question.name).rstrip(".")
        found = self.names.get(name, "")
        if question.rdtype == dns.rdatatype.A:
            self.asked.append(Asked(name, tcp, port, asyncio.get_running_loop().time()))
        if found is None:
            return None
        answer = dns.message.make_response(query)
        answer.flags |= dns.flags.RA
        if not found:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif question.rdtype == dns.rdatatype.A:
            answer.answer.append(dns.rrset.from_text(question.name, 0, "IN", "A", found))
        return answer.to_wire()


@asynccontextmanager
async def name_server(**names: str | None) -> AsyncIterator[NameServer]:
    """Serve these names below `.test` over UDP and TCP, at one port of loopback."""
    server = NameServer({f"{name}.test": address for name, address in names.items()})
    tcp = await asyncio.start_server(server.over_tcp, "127.0.0.1", 0)
    server.port = tcp.sockets[0].getsockname()[1]
    udp, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: server, local_addr=("127.0.0.1", server.port)
    )
    try:
        yield server
    finally:
        udp.close()
        tcp.close()
        await tcp.wait_closed()
