"""The server's end of one HTTP/2 connection that carries unary gRPC calls of one method: bytes in, messages out.

Just enough HTTP/2 for Envoy asking on a private unix socket (envoy.md 2.2). Three things make it small:

- The socket serves one method, so nothing in a request's header block matters and HPACK is never decoded.
- Every answer has the same header block and trailers, written without HPACK's dynamic table.
- A call is one message each way: DATA is collected until END_STREAM, then handed out whole.

The rules that cost something are all here: flow control in both directions, limits on messages, streams and
header blocks, and an end of the connection, polite (`shut_down`, then `finish`) or not (a protocol error).
Nothing here opens a socket or reads a clock.
"""

from collections.abc import Callable
from typing import NamedTuple

from pomerium_agent.authorize.frames import (
    ACK,
    DEFAULT_FRAME_BYTES,
    DEFAULT_TABLE_BYTES,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_FIELDS,
    FRAME_HEAD,
    GRPC_HEAD,
    LARGEST_FRAME_BYTES,
    LARGEST_WINDOW,
    NO_TABLE,
    OK_TRAILERS,
    PREFACE,
    PRIORITY_FIELDS,
    RESPONSE_HEADERS,
    Code,
    GrpcStatus,
    Kind,
    Setting,
    Violation,
    answer_head,
    answer_tail,
    error_trailers,
    frame,
    go_away,
    grpc_message,
    rst_stream,
    settings,
    unpadded,
    window_update,
)

MAX_MESSAGE_BYTES = 1 << 20
MAX_STREAMS = 512
MAX_HEADER_BLOCK_BYTES = 1 << 16
STREAM_WINDOW = 1 << 20
CONNECTION_WINDOW = 1 << 24


class Call(NamedTuple):
    """One request, complete."""

    stream: int
    message: bytes


class Cancelled(NamedTuple):
    """The client no longer waits for the answer to a call that was handed out."""

    stream: int


class _Stream:
    __slots__ = ("ended", "id", "received", "unreturned", "unsent", "window")

    def __init__(self, id: int, window: int) -> None:
        self.id = id
        self.window = window  # bytes that the peer lets us send
        self.received: bytes | bytearray = b""
        self.unreturned = 0  # bytes received whose window has not been given back
        self.ended = False  # the peer has said all it had to say
        self.unsent: memoryview | None = None


class GrpcConnection:
    """One connection. Feed `receive`, answer each `Call` once, and send what `data_to_send` gives after either.

    A violation of the protocol queues a GOAWAY and sets `closed`; everything received later is ignored.
    """

    def __init__(self, *, max_message_bytes: int = MAX_MESSAGE_BYTES, max_streams: int = MAX_STREAMS) -> None:
        self.closed = False
        self._max_message = max_message_bytes
        self._max_streams = max_streams
        self._in = b""  # the beginning of a frame
        self._out: list[bytes] = []
        self._preface_seen = False
        self._settings_seen = False
        self._streams: dict[int, _Stream] = {}
        self._blocked: dict[int, _Stream] = {}  # answers waiting for window, oldest first
        self._last_stream = 0
        self._header_block_of = 0  # the stream whose header block goes on in CONTINUATION frames
        self._header_block_bytes = 0
        self._unreturned = 0
        self._window = DEFAULT_WINDOW
        self._initial_window = DEFAULT_WINDOW
        self._frame_bytes = DEFAULT_FRAME_BYTES
        self._announce_no_table = False
        self._handlers: tuple[Callable[[int, int, bytes], Call | Cancelled | None], ...] = (  # by Kind
            self._on_data,
            self._on_headers,
            self._on_priority,
            self._on_rst_stream,
            self._on_settings,
            self._on_push_promise,
            self._on_ping,
            self._on_go_away,
            self._on_window_update,
            self._on_continuation,
        )
        self._say(
            settings({Setting.MAX_CONCURRENT_STREAMS: max_streams, Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW}),
            window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW),
        )

    @property
    def idle(self) -> bool:
        """No call is open."""
        return not self._streams

    def data_to_send(self) -> bytes:
        """Everything queued since the last time."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes) -> list[Call | Cancelled]:
        """Take bytes from the peer; return what they complete, in order."""
        events: list[Call | Cancelled] = []
        if self.closed:
            return events
        try:
            self._read(self._in + data if self._in else data, events)
        except Violation as violation:
            self._close(violation.code, str(violation))
        return events

    def answer(self, stream: int, message: bytes) -> None:
        """Answer a call with a message. Does nothing when the client has cancelled it."""
        found = self._streams.get(stream)
        if found is None:
            return
        size = GRPC_HEAD + len(message)
        if size <= found.window and size <= self._window and size <= self._frame_bytes and not self._announce_no_table:
            # What the rest of this does, in one piece.
            self._window -= size
            self._out += (answer_head(stream, len(message)), message, answer_tail(stream))
            del self._streams[stream]
            return
        self._say(frame(Kind.HEADERS, END_HEADERS, stream, self._block(RESPONSE_HEADERS)))
        found.unsent = memoryview(grpc_message(message))
        self._send(found)

    def fail(self, stream: int, status: GrpcStatus, text: str) -> None:
        """Answer a call with an error. Does nothing when the client has cancelled it."""
        found = self._streams.pop(stream, None)
        if found is None:
            return
        block = self._block(RESPONSE_HEADERS + error_trailers(status, text))
        self._say(frame(Kind.HEADERS, END_HEADERS | END_STREAM, stream, block))
        if not found.ended:  # the rest of the request is not wanted (RFC 9113, 8.1)
            self._say(rst_stream(stream, Code.NO_ERROR))

    def shut_down(self) -> None:
        """Ask the peer to go elsewhere with new calls; those that it sends meanwhile are still served."""
        if not self.closed:
            self._say(go_away(LARGEST_WINDOW, Code.NO_ERROR, "shutting down"))

    def finish(self) -> None:
        """Say which calls were taken, and take no more."""
        if not self.closed:
            self._close(Code.NO_ERROR, "shut down")

    def _close(self, code: Code, text: str) -> None:
        self.closed = True
        self._say(go_away(self._last_stream, code, text))
        self._streams.clear()
        self._blocked.clear()
        self._in = b""

    def _say(self, *frames: bytes) -> None:
        self._out += frames

    def _block(self, block: bytes) -> bytes:
        """A header block; the first one after the peer shrank its HPACK table says that we use none (RFC 7541, 4.2)."""
        if self._announce_no_table:
            self._announce_no_table = False
            return NO_TABLE + block
        return block

    # What the peer sends.

    def _read(self, data: bytes, events: list[Call | Cancelled]) -> None:
        at, available = 0, len(data)
        if not self._preface_seen:
            start = data[: len(PREFACE)]
            if not PREFACE.startswith(start):
                raise Violation(Code.PROTOCOL_ERROR, "this is not HTTP/2")
            if len(start) < len(PREFACE):
                self._in = data
                return
            self._preface_seen, at = True, len(PREFACE)
        while available - at >= FRAME_HEAD:
            high, low, kind, flags, stream = FRAME_FIELDS.unpack_from(data, at)
            length = high << 8 | low
            if length > DEFAULT_FRAME_BYTES:
                raise Violation(Code.FRAME_SIZE_ERROR, f"a frame of {length} bytes")
            end = at + FRAME_HEAD + length
            if available < end:
                break
            event = self._on_frame(kind, flags, stream & LARGEST_WINDOW, data[at + FRAME_HEAD : end])
            at = end
            if event is not None:
                events.append(event)
        self._in = data[at:]

    def _on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> Call | Cancelled | None:
        if not self._settings_seen:
            if kind != Kind.SETTINGS or flags & ACK:
                raise Violation(Code.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._settings_seen = True
        if self._header_block_of and (kind != Kind.CONTINUATION or stream != self._header_block_of):
            raise Violation(Code.PROTOCOL_ERROR, "a header block was interrupted")
        if kind >= len(self._handlers):
            return None  # unknown kinds are ignored (RFC 9113, 5.5)
        return self._handlers[kind](flags, stream, payload)

    def _on_data(self, flags: int, stream: int, payload: bytes) -> Call | Cancelled | None:
        self._unreturned += len(payload)  # padding counts, and so do frames of streams that are gone
        if self._unreturned >= CONNECTION_WINDOW // 2:
            self._say(window_update(0, self._unreturned))
            self._unreturned = 0
        body = unpadded(flags, payload)
        found = self._streams.get(stream) or self._find(stream)
        if found is None:
            return None
        if found.ended:
            return self._reset(found, Code.STREAM_CLOSED)
        size = len(body) - GRPC_HEAD
        if (
            flags & END_STREAM
            and not found.received
            and 0 <= size <= self._max_message
            and int.from_bytes(body[:GRPC_HEAD], "big") == size  # not compressed, and no more and no less
        ):  # a whole message in one frame, as nearly all are
            found.ended = True
            return Call(stream, body[GRPC_HEAD:])
        found.unreturned += len(payload)
        if found.received:
            found.received += body
        else:
            found.received = body if flags & END_STREAM else bytearray(body)
        if self._refused(found):
            return None
        if flags & END_STREAM:
            return self._complete(found)
        if found.unreturned >= STREAM_WINDOW // 2:
            self._say(window_update(stream, found.unreturned))
            found.unreturned = 0
        return None

    def _refused(self, stream: _Stream) -> bool:
        """Answer at once what no further byte can mend."""
        received = stream.received
        if received and received[0]:
            self.fail(stream.id, GrpcStatus.UNIMPLEMENTED, "compressed messages are not supported")
            return True
        announced = int.from_bytes(received[1:GRPC_HEAD], "big") if len(received) >= GRPC_HEAD else 0
        if announced > self._max_message or len(received) - GRPC_HEAD > self._max_message:
            self.fail(stream.id, GrpcStatus.RESOURCE_EXHAUSTED, f"messages end at {self._max_message} bytes")
            return True
        return False

    def _complete(self, stream: _Stream) -> Call | None:
        stream.ended = True
        body = stream.received
        if len(body) < GRPC_HEAD or int.from_bytes(body[1:GRPC_HEAD], "big") != len(body) - GRPC_HEAD:
            self.fail(stream.id, GrpcStatus.INTERNAL, "a call is exactly one whole message")
            return None
        stream.received = b""
        return Call(stream.id, bytes(body[GRPC_HEAD:]))

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> Call | Cancelled | None:
        if stream % 2 == 0:
            raise Violation(Code.PROTOCOL_ERROR, f"a client cannot open stream {stream}")
        block = unpadded(flags, payload)
        if flags & PRIORITY_FIELDS and len(block) < 5:
            raise Violation(Code.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
        if not flags & END_HEADERS:
            self._header_block_of, self._header_block_bytes = stream, len(block)
        found = self._streams.get(stream)
        if found is not None:
            return self._on_trailers(flags, found)
        if stream <= self._last_stream:
            return None  # trailers of a call that we have already refused
        self._last_stream = stream
        if len(self._streams) >= self._max_streams:
            self._say(rst_stream(stream, Code.REFUSED_STREAM))
            return None
        found = self._streams[stream] = _Stream(stream, self._initial_window)
        return self._complete(found) if flags & END_STREAM else None

    def _on_trailers(self, flags: int, stream: _Stream) -> Call | Cancelled | None:
        if stream.ended:
            return self._reset(stream, Code.STREAM_CLOSED)
        if not flags & END_STREAM:
            return self._reset(stream, Code.PROTOCOL_ERROR)
        return self._complete(stream)

    def _on_continuation(self, flags: int, _stream: int, payload: bytes) -> None:
        if not self._header_block_of:
            raise Violation(Code.PROTOCOL_ERROR, "CONTINUATION without a header block")
        self._header_block_bytes += max(len(payload), 1)  # empty frames count, or they could go on for ever
        if self._header_block_bytes > MAX_HEADER_BLOCK_BYTES:
            raise Violation(Code.ENHANCE_YOUR_CALM, f"a header block of more than {MAX_HEADER_BLOCK_BYTES} bytes")
        if flags & END_HEADERS:
            self._header_block_of = 0

    def _on_priority(self, _flags: int, stream: int, payload: bytes) -> None:
        if stream == 0:
            raise Violation(Code.PROTOCOL_ERROR, "PRIORITY without a stream")
        _expect(len(payload) == 5, "PRIORITY")

    def _on_rst_stream(self, _flags: int, stream: int, payload: bytes) -> Cancelled | None:
        _expect(len(payload) == 4, "RST_STREAM")
        found = self._find(stream)
        return self._drop(found) if found is not None else None

    def _on_settings(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise Violation(Code.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & ACK:
            return _expect(not payload, "SETTINGS acknowledgement")
        _expect(len(payload) % 6 == 0, "SETTINGS")
        for at in range(0, len(payload), 6):
            self._set(int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big"))
        self._say(frame(Kind.SETTINGS, ACK, 0))
        return None

    def _set(self, name: int, value: int) -> None:
        if name == Setting.HEADER_TABLE_SIZE:
            self._announce_no_table = self._announce_no_table or value < DEFAULT_TABLE_BYTES
        elif name == Setting.ENABLE_PUSH and value > 1:
            raise Violation(Code.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")
        elif name == Setting.MAX_FRAME_SIZE:
            if not DEFAULT_FRAME_BYTES <= value <= LARGEST_FRAME_BYTES:
                raise Violation(Code.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
            self._frame_bytes = value
        elif name == Setting.INITIAL_WINDOW_SIZE:
            change, self._initial_window = value - self._initial_window, value
            for stream in self._streams.values():
                stream.window += change
            if max([value, *(stream.window for stream in self._streams.values())]) > LARGEST_WINDOW:
                raise Violation(Code.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value}")
            self._send_blocked()

    def _on_push_promise(self, _flags: int, _stream: int, _payload: bytes) -> None:
        raise Violation(Code.PROTOCOL_ERROR, "a client cannot push")

    def _on_ping(self, flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise Violation(Code.PROTOCOL_ERROR, "PING on a stream")
        _expect(len(payload) == 8, "PING")
        if not flags & ACK:
            self._say(frame(Kind.PING, ACK, 0, payload))

    def _on_go_away(self, _flags: int, stream: int, payload: bytes) -> None:
        if stream:
            raise Violation(Code.PROTOCOL_ERROR, "GOAWAY on a stream")
        _expect(len(payload) >= 8, "GOAWAY")

    def _on_window_update(self, _flags: int, stream: int, payload: bytes) -> Cancelled | None:
        _expect(len(payload) == 4, "WINDOW_UPDATE")
        increment = int.from_bytes(payload, "big") & LARGEST_WINDOW
        if stream == 0:
            self._window += increment
            if not increment or self._window > LARGEST_WINDOW:
                code = Code.FLOW_CONTROL_ERROR if increment else Code.PROTOCOL_ERROR
                raise Violation(code, f"the connection's window cannot grow by {increment}")
        else:
            found = self._find(stream)
            if found is None:
                return None
            found.window += increment
            if not increment:
                return self._reset(found, Code.PROTOCOL_ERROR)
            if found.window > LARGEST_WINDOW:
                return self._reset(found, Code.FLOW_CONTROL_ERROR)
        self._send_blocked()
        return None

    def _find(self, stream: int) -> _Stream | None:
        """The stream a frame speaks of; None when it is over, and a violation when it has never begun."""
        found = self._streams.get(stream)
        if found is None and (stream % 2 == 0 or stream > self._last_stream):
            raise Violation(Code.PROTOCOL_ERROR, f"stream {stream} is not open")
        return found

    def _reset(self, stream: _Stream, code: Code) -> Cancelled | None:
        self._say(rst_stream(stream.id, code))
        return self._drop(stream)

    def _drop(self, stream: _Stream) -> Cancelled | None:
        """Forget a stream; whoever works on its answer hears of it."""
        del self._streams[stream.id]
        self._blocked.pop(stream.id, None)
        return Cancelled(stream.id) if stream.ended and stream.unsent is None else None

    # What we send.

    def _send_blocked(self) -> None:
        for stream in list(self._blocked.values()):
            if self._window <= 0:
                break
            self._send(stream)

    def _send(self, stream: _Stream) -> None:
        """Send as much of the answer as the windows allow; the rest waits for a WINDOW_UPDATE."""
        unsent = stream.unsent
        while unsent:
            size = min(len(unsent), self._window, stream.window, self._frame_bytes)
            if size <= 0:
                stream.unsent = unsent
                self._blocked[stream.id] = stream
                return
            self._say(frame(Kind.DATA, 0, stream.id, unsent[:size]))
            self._window -= size
            stream.window -= size
            unsent = unsent[size:]
        self._say(frame(Kind.HEADERS, END_HEADERS | END_STREAM, stream.id, self._block(OK_TRAILERS)))
        del self._streams[stream.id]
        self._blocked.pop(stream.id, None)


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(Code.FRAME_SIZE_ERROR, f"{what} of a wrong size")
