"""One connection to the proxy over HTTP/2, on which each flow of datagrams is a stream (RFC 9298, RFC 8441)."""

import asyncio
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, RemoteSettingsChanged, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from pomerium_agent.cli.capsules import CapsuleReader, Garbled, capsule
from pomerium_agent.cli.tunnel import REACH_SECONDS, Door, NotLetThrough, refused

_CHUNK = 65536
_WINDOW = 1 << 20  # of the connection and of each stream
_BACKLOG = 1 << 20  # bytes that may wait for the network; what comes then is dropped, as a network would
_WAITING = 16  # datagrams of a flow that wait for the proxy's answer
_FRAME_HEADER = 9
_MAX_FRAME = 16384
_GOAWAY = 7


@dataclass(slots=True, eq=False)
class Flow:
    """What one local socket sends and is sent. `status` is the proxy's answer; 0 until it is there."""

    stream: int
    deliver: Callable[[bytes], None]
    status: int = 0
    over: bool = False
    waiting: list[bytes] = field(default_factory=list)
    reader: CapsuleReader = field(default_factory=CapsuleReader)


@dataclass(slots=True, eq=False)
class UdpLine:
    """An open connection. `read` must run for as long as it is used."""

    door: Door
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter
    _http: H2Connection
    leaving: bool = False  # the proxy takes no new streams here
    _flows: dict[int, Flow] = field(default_factory=dict)
    _frames: bytearray = field(default_factory=bytearray)

    def open(self, deliver: Callable[[bytes], None]) -> Flow:
        """A new flow: asks for a tunnel. Raises NotLetThrough when the proxy lets no more be opened."""
        host, _, port = self.door.target.rpartition(":")
        path = f"/.well-known/masque/udp/{host.strip('[]').replace(':', '%3A')}/{port}/"
        headers = [
            (":method", "CONNECT"),
            (":protocol", "connect-udp"),
            (":scheme", "https"),
            (":authority", self.door.target),
            (":path", path),
            ("capsule-protocol", "?1"),
        ]
        if self.door.token:
            headers.append(("authorization", f"Bearer Pomerium-{self.door.token}"))
        try:
            flow = Flow(self._http.get_next_available_stream_id(), deliver)
            self._http.send_headers(flow.stream, headers)
        except ProtocolError:
            raise NotLetThrough(f"{self.door.host}:{self.door.port} takes no more flows at once") from None
        self._flows[flow.stream] = flow
        self._flush()
        return flow

    def send(self, flow: Flow, payload: bytes) -> None:
        """One datagram, which may be lost, as everywhere."""
        if not flow.status:
            flow.waiting = [*flow.waiting, payload][-_WAITING:]
            return
        if not flow.over:
            self._put(flow.stream, payload)
            self._flush()

    def close(self, flow: Flow) -> None:
        """The end of a flow, whoever wants it."""
        flow.over = True
        if self._flows.pop(flow.stream, None) is not None:
            try:
                self._http.reset_stream(flow.stream, ErrorCodes.CANCEL)
            except ProtocolError:
                return  # the proxy ended it first
            self._flush()

    async def read(self) -> None:
        """Take what comes until the connection ends; then all its flows are over."""
        try:
            while data := await self._reader.read(_CHUNK):
                for event in self._events(data):
                    self._take(event)
                self._flush()
        except (OSError, ProtocolError, Garbled):
            pass  # there is nothing to be said to whoever speaks like that
        finally:
            self.leaving = True
            self._writer.transport.abort()
            for flow in self._flows.values():
                flow.over = True
            self._flows.clear()

    def _take(self, event: Event) -> None:
        stream = getattr(event, "stream_id", None)
        flow = self._flows.get(stream) if isinstance(stream, int) else None
        if isinstance(event, DataReceived):
            self._http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if flow is None or stream is None:
            return
        match event:
            case ResponseReceived():
                flow.status = int(dict(event.headers).get(b":status", b"0")) or 502
                for payload in flow.waiting if 200 <= flow.status < 300 else ():
                    self._put(stream, payload)
                flow.waiting = []
            case DataReceived() if 200 <= flow.status < 300:
                for payload in flow.reader.feed(event.data):
                    flow.deliver(payload)
            case StreamEnded() | StreamReset():
                flow.over = True
                del self._flows[stream]

    def _events(self, data: bytes) -> Iterator[Event]:
        """GOAWAY is kept from the library, which would take no more answers after it; Envoy still gives them."""
        self._frames += data
        while len(self._frames) >= _FRAME_HEADER:
            length = int.from_bytes(self._frames[:3], "big")
            if length > _MAX_FRAME:
                raise ProtocolError("a frame is longer than we allow")
            if len(self._frames) < _FRAME_HEADER + length:
                return
            frame = bytes(self._frames[: _FRAME_HEADER + length])
            del self._frames[: _FRAME_HEADER + length]
            if frame[3] == _GOAWAY:
                self.leaving = True
            else:
                yield from self._http.receive_data(frame)

    def _put(self, stream: int, payload: bytes) -> None:
        data = capsule(payload)
        if self._writer.transport.get_write_buffer_size() > _BACKLOG:
            return
        if self._http.local_flow_control_window(stream) < len(data):
            return
        for start in range(0, len(data), _MAX_FRAME):
            self._http.send_data(stream, data[start : start + _MAX_FRAME])

    def _flush(self) -> None:
        self._writer.write(self._http.data_to_send())

    async def settle(self) -> None:
        """Say hello, and wait for what the proxy says it can do; raises NotLetThrough."""
        tls = self._writer.get_extra_info("ssl_object")
        if tls is None or tls.selected_alpn_protocol() != "h2":
            raise NotLetThrough(f"{self.door.host}:{self.door.port} does not speak HTTP/2, which UDP tunnels need")
        self._flush()
        while data := await self._reader.read(_CHUNK):
            said = any(isinstance(event, RemoteSettingsChanged) for event in [*self._events(data)])
            self._flush()
            if self._http.remote_settings.enable_connect_protocol:
                return
            if said:
                raise NotLetThrough(refused(404, self.door))
        raise NotLetThrough(f"{self.door.host}:{self.door.port} does not answer as a proxy would")


async def open_line(door: Door, trust: ssl.SSLContext) -> UdpLine:
    """A connection on which flows can be opened; raises NotLetThrough."""
    place = f"{door.host}:{door.port}"
    try:
        async with asyncio.timeout(REACH_SECONDS):
            reader, writer = await asyncio.open_connection(*door.at, ssl=trust, server_hostname=door.host)
            try:
                line = UdpLine(door, reader, writer, _http())
                await line.settle()
            except BaseException:  # also when we are cancelled: nobody else knows of this connection yet
                writer.transport.abort()
                raise
            return line
    except TimeoutError:
        raise NotLetThrough(f"{place} does not answer") from None
    except ProtocolError:
        raise NotLetThrough(f"{place} does not answer as a proxy would") from None
    except OSError as error:
        raise NotLetThrough(f"{place} cannot be reached: {error}") from None


def _http() -> H2Connection:
    http = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    http.local_settings = Settings(
        client=True,
        initial_values={
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW,
            SettingCodes.MAX_CONCURRENT_STREAMS: 0,
            SettingCodes.MAX_HEADER_LIST_SIZE: 1 << 16,
        },
    )
    http.initiate_connection()
    http.increment_flow_control_window(_WINDOW)
    return http
