"""The client's end of a UDP route: a local socket, and a flow through the proxy for each that sends to it."""

import asyncio
import signal
import ssl
import sys
import time
from dataclasses import dataclass, field

from pomerium_agent.cli.tunnel import Door, NotLetThrough, refused
from pomerium_agent.cli.udp_line import Flow, UdpLine, open_line
from pomerium_agent.errors import SettingsError

MAX_FLOWS = 512  # at once; Envoy takes a thousand streams
_QUEUE = 1024  # datagrams that wait while a connection is opened
_SWEEP_SECONDS = 0.5
_REST_SECONDS = 1.0  # after a refusal: who is not let in must not knock with every datagram

Address = tuple[str, int]


@dataclass(slots=True, eq=False)
class _Kept:
    """A flow, on which connection it is, and when it last carried anything."""

    line: UdpLine
    flow: Flow
    used: float


@dataclass(slots=True, eq=False)
class _Socket(asyncio.DatagramProtocol):
    """The local socket. What comes faster than it can be sent is dropped."""

    arrived: asyncio.Queue[tuple[bytes, Address]]

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if not self.arrived.full():
            self.arrived.put_nowait((data, addr))


@dataclass(slots=True, eq=False)
class _Flows:
    """All flows of one `connect`; one task owns them."""

    door: Door
    trust: ssl.SSLContext
    idle: float
    local: asyncio.DatagramTransport
    _line: UdpLine | None = None
    _kept: dict[Address, _Kept] = field(default_factory=dict)
    _rests_until: float = 0.0

    async def run(self, arrived: asyncio.Queue[tuple[bytes, Address]]) -> None:
        """Carry datagrams until cancelled."""
        async with asyncio.TaskGroup() as lines:
            await self._run(arrived, lines)

    async def _run(self, arrived: asyncio.Queue[tuple[bytes, Address]], lines: asyncio.TaskGroup) -> None:
        swept = time.monotonic()
        while True:
            try:
                async with asyncio.timeout(_SWEEP_SECONDS):
                    data, address = await arrived.get()
            except TimeoutError:
                pass
            else:
                try:
                    await self._carry(data, address, lines)
                except NotLetThrough as refused:
                    self._say(str(refused))
            if time.monotonic() - swept >= _SWEEP_SECONDS:
                self._sweep()
                swept = time.monotonic()

    async def _carry(self, data: bytes, address: Address, lines: asyncio.TaskGroup) -> None:
        kept = self._kept.get(address)
        if kept is not None and kept.flow.over:
            self._forget(address, kept)
            kept = None
        if kept is None:
            if time.monotonic() < self._rests_until or len(self._kept) >= MAX_FLOWS:
                return
            kept = await self._open(address, lines)
        kept.used = time.monotonic()
        kept.line.send(kept.flow, data)

    async def _open(self, address: Address, lines: asyncio.TaskGroup) -> _Kept:
        line = self._line
        if line is None or line.leaving:
            line = self._line = await open_line(self.door, self.trust)
            lines.create_task(line.read())

        def deliver(payload: bytes) -> None:
            kept.used = time.monotonic()
            self.local.sendto(payload, address)

        kept = self._kept[address] = _Kept(line, line.open(deliver), time.monotonic())
        return kept

    def _sweep(self) -> None:
        """End what is idle, and forget what the proxy ended."""
        now = time.monotonic()
        for address, kept in [*self._kept.items()]:
            if kept.flow.over or kept.flow.status >= 300 or now - kept.used >= self.idle:
                self._forget(address, kept)

    def _forget(self, address: Address, kept: _Kept) -> None:
        del self._kept[address]
        kept.line.close(kept.flow)
        why = refused(kept.flow.status, self.door) if kept.flow.status else ""
        if why:
            self._say(why)

    def _say(self, why: str) -> None:
        """Once for as long as we rest."""
        if time.monotonic() >= self._rests_until:
            print(why, file=sys.stderr, flush=True)
        self._rests_until = time.monotonic() + _REST_SECONDS


async def serve_udp(door: Door, place: Address, trust: ssl.SSLContext, idle: float) -> None:
    """Listen until a signal comes. What is open then is cut."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    arrived: asyncio.Queue[tuple[bytes, Address]] = asyncio.Queue(_QUEUE)
    try:
        local, _ = await loop.create_datagram_endpoint(lambda: _Socket(arrived), local_addr=place)
    except OSError as error:
        raise SettingsError(f"--listen: {place[0]}:{place[1]} cannot be had: {error.strerror}") from None
    try:
        host, port = local.get_extra_info("sockname")[:2]
        print(f"{f'[{host}]' if ':' in host else host}:{port} leads to udp://{door.target}", flush=True)
        async with asyncio.TaskGroup() as group:
            carrying = group.create_task(_Flows(door, trust, idle, local).run(arrived))
            await stop.wait()
            carrying.cancel()
    finally:
        local.close()
