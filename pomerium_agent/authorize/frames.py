"""HTTP/2 frames and gRPC framing: the numbers of RFC 9113, and the few byte strings that our answers are made of."""

import struct
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEAD = 9
FRAME_FIELDS = struct.Struct(">HBBBL")  # length (24 bits, in two parts), kind, flags, stream
GRPC_HEAD = 5
LARGEST_WINDOW = 2**31 - 1
DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_BYTES = 16_384
LARGEST_FRAME_BYTES = 2**24 - 1
DEFAULT_TABLE_BYTES = 4096

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FIELDS = 0x20


class Kind(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Code(IntEnum):
    """Why a stream or a connection ends (RFC 9113, 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5


class GrpcStatus(IntEnum):
    """The gRPC status codes that we answer with."""

    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


class Violation(Exception):
    """The peer broke the protocol in a way that ends the connection."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    """One whole frame."""
    size = len(payload)
    return FRAME_FIELDS.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE; stream 0 is the connection."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def settings(values: dict[Setting, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(
        Kind.SETTINGS,
        0,
        0,
        b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values.items()),
    )


def go_away(last_stream: int, code: Code, text: str = "") -> bytes:
    """A GOAWAY with a debug text."""
    return frame(
        Kind.GOAWAY, 0, 0, last_stream.to_bytes(4, "big") + code.to_bytes(4, "big") + text.encode(errors="replace")
    )


def rst_stream(stream: int, code: Code) -> bytes:
    """A RST_STREAM."""
    return frame(Kind.RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def grpc_message(message: bytes) -> bytes:
    """`message` with its five-byte head, not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def literal(name: bytes, value: bytes) -> bytes:
    """An HPACK literal that no table remembers, so that header blocks stay constants (RFC 7541, 6.2.2)."""
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


# `:status: 200` is entry 8 of HPACK's static table; 0x20 announces a dynamic table of no bytes.
RESPONSE_HEADERS = b"\x88" + literal(b"content-type", b"application/grpc")
OK_TRAILERS = literal(b"grpc-status", b"0")
NO_TABLE = b"\x20"

# An answer is a HEADERS frame, one DATA frame, and the trailers in another HEADERS frame.
_HEAD = struct.Struct(f">5sL{len(RESPONSE_HEADERS)}sHBBBLBL")
_HEAD_START = frame(Kind.HEADERS, END_HEADERS, 0, RESPONSE_HEADERS)[:5]
_TAIL = struct.Struct(f">5sL{len(OK_TRAILERS)}s")
_TAIL_START = frame(Kind.HEADERS, END_HEADERS | END_STREAM, 0, OK_TRAILERS)[:5]


def answer_head(stream: int, message_bytes: int) -> bytes:
    """All of an answer that stands before a message which fits into one frame."""
    size = GRPC_HEAD + message_bytes
    return _HEAD.pack(_HEAD_START, stream, RESPONSE_HEADERS, size >> 8, size & 0xFF, 0, 0, stream, 0, message_bytes)


def answer_tail(stream: int) -> bytes:
    """All of an answer that stands after the message."""
    return _TAIL.pack(_TAIL_START, stream, OK_TRAILERS)


def error_trailers(status: GrpcStatus, text: str) -> bytes:
    """What a call that failed is answered with; `text` is cut to what one length byte can say."""
    quoted = "".join(c if " " <= c <= "~" and c != "%" else "_" for c in text)[:120]
    return literal(b"grpc-status", str(int(status)).encode()) + literal(b"grpc-message", quoted.encode())


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of a DATA or HEADERS frame without its padding."""
    if not flags & PADDED:
        return payload
    if not payload:
        raise Violation(Code.FRAME_SIZE_ERROR, "a padded frame without a pad length")
    if payload[0] >= len(payload):
        raise Violation(Code.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]
