"""The HTTP/2 server without a wire: frames in, calls and frames out (envoy.md 2.2)."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomerium_agent.authorize import h2
from pomerium_agent.authorize.frames import Code, GrpcStatus
from pomerium_agent.authorize.h2 import Call, Cancelled, GrpcConnection

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY, ACK = 0x1, 0x4, 0x8, 0x20, 0x1
NOT_HPACK = b"\xff\xff\xff\xff\xff"  # a decoder would choke on it


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def frames(data: bytes) -> Iterator[Frame]:
    while data:
        size = int.from_bytes(data[:3], "big")
        yield Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + size])
        data = data[9 + size :]


def setting(name: int, value: int) -> bytes:
    return name.to_bytes(2, "big") + value.to_bytes(4, "big")


def message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


def call(stream: int, body: bytes) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, NOT_HPACK) + frame(DATA, END_STREAM, stream, message(body))


def window(stream: int, increment: int) -> bytes:
    return frame(WINDOW, 0, stream, increment.to_bytes(4, "big"))


GREETING = PREFACE + frame(SETTINGS)


def greeted(max_message_bytes: int = h2.MAX_MESSAGE_BYTES, max_streams: int = h2.MAX_STREAMS) -> GrpcConnection:
    connection = GrpcConnection(max_message_bytes=max_message_bytes, max_streams=max_streams)
    connection.receive(GREETING)
    connection.data_to_send()
    return connection


def sent(connection: GrpcConnection) -> list[Frame]:
    return list(frames(connection.data_to_send()))


def answer_of(answer: list[Frame], stream: int) -> bytes:
    return b"".join(f.payload for f in answer if f.kind == DATA and f.stream == stream)


def test_the_server_speaks_first_and_acknowledges_settings() -> None:
    connection = GrpcConnection()

    greeting = sent(connection)
    connection.receive(GREETING)

    assert [f.kind for f in greeting] == [SETTINGS, WINDOW]
    assert sent(connection) == [Frame(SETTINGS, ACK, 0, b"")]


def test_a_call_is_answered_with_constant_headers_one_message_and_constant_trailers() -> None:
    connection = greeted()

    events = connection.receive(call(1, b"question"))
    connection.answer(1, b"answer")

    assert events == [Call(1, b"question")]
    assert sent(connection) == [
        Frame(HEADERS, END_HEADERS, 1, b"\x88\x00\x0ccontent-type\x10application/grpc"),
        Frame(DATA, 0, 1, message(b"answer")),
        Frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x0bgrpc-status\x010"),
    ]
    assert connection.idle


def test_a_message_in_many_frames_is_handed_out_whole() -> None:
    connection = greeted()
    body = bytes(range(256)) * 288  # 72 KB
    framed = message(body)

    connection.receive(frame(HEADERS, END_HEADERS, 1))
    pieces = [framed[at : at + 16_384] for at in range(0, len(framed), 16_384)]
    events = [connection.receive(frame(DATA, 0, 1, piece)) for piece in pieces]
    last = connection.receive(frame(DATA, END_STREAM, 1))

    assert not any(events)
    assert last == [Call(1, body)]


def test_a_call_may_end_with_trailers() -> None:
    connection = greeted()

    connection.receive(frame(HEADERS, END_HEADERS, 1) + frame(DATA, 0, 1, message(b"x")))

    assert connection.receive(frame(HEADERS, END_HEADERS | END_STREAM, 1)) == [Call(1, b"x")]


def test_padding_and_priority_fields_are_not_content() -> None:
    connection = greeted()

    headers = frame(HEADERS, END_HEADERS | PADDED | WITH_PRIORITY, 1, b"\x02" + b"prior" + NOT_HPACK + b"\0\0")
    data = frame(DATA, END_STREAM | PADDED, 1, b"\x03" + message(b"x") + b"\0\0\0")

    assert connection.receive(headers + data) == [Call(1, b"x")]


def test_a_header_block_may_go_on_in_continuation_frames() -> None:
    connection = greeted()

    events = connection.receive(
        frame(HEADERS, 0, 1, NOT_HPACK)
        + frame(CONTINUATION, 0, 1, NOT_HPACK)
        + frame(CONTINUATION, END_HEADERS, 1, NOT_HPACK)
        + frame(DATA, END_STREAM, 1, message(b"x"))
    )

    assert events == [Call(1, b"x")]


def test_calls_are_answered_in_any_order() -> None:
    connection = greeted()

    connection.receive(call(1, b"a") + call(3, b"b"))
    connection.answer(3, b"B")
    connection.answer(1, b"A")

    answer = sent(connection)
    assert answer_of(answer, 3) == message(b"B")
    assert answer_of(answer, 1) == message(b"A")


def test_a_ping_comes_back_and_an_acknowledged_one_does_not() -> None:
    connection = greeted()

    connection.receive(frame(PING, 0, 0, b"12345678") + frame(PING, ACK, 0, b"12345678"))

    assert sent(connection) == [Frame(PING, ACK, 0, b"12345678")]


def test_frames_of_unknown_kind_goaway_and_priority_are_ignored() -> None:
    connection = greeted()

    connection.receive(frame(200, 0, 0, b"x") + frame(GOAWAY, 0, 0, bytes(8)) + frame(PRIORITY, 0, 7, bytes(5)))

    assert sent(connection) == []
    assert connection.receive(call(1, b"x")) == [Call(1, b"x")]


def test_a_cancelled_call_is_reported_and_its_answer_dropped() -> None:
    connection = greeted()
    connection.receive(call(1, b"x"))

    events = connection.receive(frame(RST, 0, 1, bytes(4)))
    connection.answer(1, b"too late")

    assert events == [Cancelled(1)]
    assert sent(connection) == []
    assert connection.idle


def test_a_half_sent_call_that_is_cancelled_leaves_nothing() -> None:
    connection = greeted()
    connection.receive(frame(HEADERS, END_HEADERS, 1) + frame(DATA, 0, 1, message(b"xxx")[:6]))

    events = connection.receive(frame(RST, 0, 1, bytes(4)) + frame(DATA, END_STREAM, 1, b"xx"))

    assert events == []
    assert connection.idle
    assert not connection.closed


def test_an_answer_waits_for_the_window_of_its_stream() -> None:
    connection = GrpcConnection()
    connection.receive(PREFACE + frame(SETTINGS, 0, 0, setting(4, 10)) + call(1, b"x"))
    connection.data_to_send()

    connection.answer(1, bytes(20))
    first = sent(connection)
    connection.receive(window(1, 5))
    second = sent(connection)
    connection.receive(window(1, 100))
    third = sent(connection)

    assert [f.kind for f in first] == [HEADERS, DATA]
    assert [len(f.payload) for f in first + second + third if f.kind == DATA] == [10, 5, 10]
    assert third[-1] == Frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x00\x0bgrpc-status\x010")


def test_answers_wait_for_the_window_of_the_connection_in_order() -> None:
    connection = greeted()
    connection.receive(call(1, b"x") + call(3, b"y"))

    connection.answer(1, bytes(65_535 - 5 - 1))
    connection.answer(3, b"abc")
    before = sent(connection)
    connection.receive(window(0, 1000))
    after = sent(connection)

    assert len(answer_of(before, 1)) == 65_534
    assert len(answer_of(before, 3)) == 1
    assert len(answer_of(after, 3)) == 7


def test_a_changed_initial_window_counts_for_open_streams() -> None:
    connection = GrpcConnection()
    connection.receive(PREFACE + frame(SETTINGS, 0, 0, setting(4, 0)) + call(1, b"x"))
    connection.answer(1, b"abc")
    connection.data_to_send()

    connection.receive(frame(SETTINGS, 0, 0, setting(4, 65_535)))

    assert answer_of(sent(connection), 1) == message(b"abc")


def test_frames_are_as_large_as_the_peer_allows_and_no_larger() -> None:
    connection = greeted()
    connection.receive(call(1, b"x") + frame(SETTINGS, 0, 0, setting(5, 20_000)) + call(3, b"x"))

    connection.answer(1, bytes(30_000))

    assert [len(f.payload) for f in sent(connection) if f.kind == DATA] == [20_000, 10_005]


def test_a_smaller_hpack_table_is_acknowledged_in_the_next_header_block() -> None:
    connection = greeted()
    connection.receive(frame(SETTINGS, 0, 0, setting(1, 0)) + call(1, b"x"))

    connection.answer(1, b"a")

    blocks = [f.payload for f in sent(connection) if f.kind == HEADERS]
    assert [block[:1] for block in blocks] == [b"\x20", b"\x00"]


def test_windows_are_given_back_to_the_stream_and_to_the_connection() -> None:
    connection = greeted(max_message_bytes=1 << 24)
    connection.receive(frame(HEADERS, END_HEADERS, 1))
    total = 9 << 20
    stream = message(bytes(total))

    for at in range(0, len(stream), 16_384):
        connection.receive(frame(DATA, 0, 1, stream[at : at + 16_384]))

    back = [f for f in sent(connection) if f.kind == WINDOW]
    assert sum(int.from_bytes(f.payload, "big") for f in back if f.stream == 1) >= total - h2.STREAM_WINDOW // 2
    assert sum(int.from_bytes(f.payload, "big") for f in back if f.stream == 0) >= h2.CONNECTION_WINDOW // 2
    assert not connection.closed


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x01\0\0\0\x01x", GrpcStatus.UNIMPLEMENTED),
        (b"", GrpcStatus.INTERNAL),
        (b"\0\0\0", GrpcStatus.INTERNAL),
        (b"\0\0\0\0\x05x", GrpcStatus.INTERNAL),
        (message(b"a") + message(b"b"), GrpcStatus.INTERNAL),
        (b"\0\0\0\0\x65", GrpcStatus.RESOURCE_EXHAUSTED),
        (b"\0\0\0\0\x01" + bytes(101), GrpcStatus.RESOURCE_EXHAUSTED),
    ],
    ids=["compressed", "no message", "half a head", "cut short", "two messages", "announced too large", "too large"],
)
def test_a_call_that_is_not_one_message_fails_alone(data: bytes, status: GrpcStatus) -> None:
    connection = greeted(max_message_bytes=100)

    events = connection.receive(frame(HEADERS, END_HEADERS, 1) + frame(DATA, END_STREAM, 1, data) + call(3, b"ok"))

    (failure,) = (f for f in sent(connection) if f.kind == HEADERS)
    assert events == [Call(3, b"ok")]
    assert failure.flags == END_HEADERS | END_STREAM
    assert b"grpc-status" + bytes((len(str(int(status))),)) + str(int(status)).encode() in failure.payload


def test_a_call_refused_early_needs_not_be_finished() -> None:
    connection = greeted(max_message_bytes=100)

    connection.receive(frame(HEADERS, END_HEADERS, 1) + frame(DATA, 0, 1, b"\0\0\x10\0\0"))
    answer = sent(connection)
    rest = connection.receive(frame(DATA, 0, 1, bytes(1000)) + frame(HEADERS, END_HEADERS | END_STREAM, 1))

    assert [f.kind for f in answer] == [HEADERS, RST]
    assert answer[1].payload == bytes(4)
    assert rest == []
    assert not connection.closed


def test_calls_beyond_the_limit_are_refused_and_can_be_tried_again() -> None:
    connection = greeted(max_streams=1)
    connection.receive(call(1, b"x"))

    refused = connection.receive(call(3, b"y"))
    answer = sent(connection)
    connection.answer(1, b"X")
    again = connection.receive(call(5, b"y"))

    assert refused == []
    assert answer == [Frame(RST, 0, 3, Code.REFUSED_STREAM.to_bytes(4, "big"))]
    assert again == [Call(5, b"y")]


BROKEN = [
    ("not http/2", b"GET / HTTP/1.1\r\n\r\n", Code.PROTOCOL_ERROR),
    ("no settings", PREFACE + frame(PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
    ("an acknowledgement first", PREFACE + frame(SETTINGS, ACK), Code.PROTOCOL_ERROR),
    ("frame too large", GREETING + b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", Code.FRAME_SIZE_ERROR),
    ("data without a stream", GREETING + frame(DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
    ("data of an idle stream", GREETING + frame(DATA, 0, 1, b"x"), Code.PROTOCOL_ERROR),
    ("more padding than data", GREETING + call(1, b"") + frame(DATA, PADDED, 1, b"\x01"), Code.PROTOCOL_ERROR),
    ("padding without a length", GREETING + call(1, b"") + frame(DATA, PADDED, 1), Code.FRAME_SIZE_ERROR),
    ("an even stream", GREETING + frame(HEADERS, END_HEADERS, 2), Code.PROTOCOL_ERROR),
    ("no room for the priority", GREETING + frame(HEADERS, END_HEADERS | 0x20, 1, b"1234"), Code.FRAME_SIZE_ERROR),
    ("an interrupted header block", GREETING + frame(HEADERS, 0, 1) + frame(PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
    (
        "another stream's continuation",
        GREETING + frame(HEADERS, 0, 1) + frame(CONTINUATION, 4, 3),
        Code.PROTOCOL_ERROR,
    ),
    ("a continuation of nothing", GREETING + frame(CONTINUATION, 4, 1), Code.PROTOCOL_ERROR),
    (
        "endless headers",
        GREETING + frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1, bytes(16_000)) * 5,
        Code.ENHANCE_YOUR_CALM,
    ),
    (
        "endless empty headers",
        GREETING + frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * 70_000,
        Code.ENHANCE_YOUR_CALM,
    ),
    ("priority without a stream", GREETING + frame(PRIORITY, 0, 0, bytes(5)), Code.PROTOCOL_ERROR),
    ("short priority", GREETING + frame(PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
    ("short reset", GREETING + call(1, b"") + frame(RST, 0, 1, bytes(3)), Code.FRAME_SIZE_ERROR),
    ("reset of an idle stream", GREETING + frame(RST, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
    ("reset of the connection", GREETING + frame(RST, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
    ("settings on a stream", GREETING + frame(SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
    ("odd settings", GREETING + frame(SETTINGS, 0, 0, b"12345"), Code.FRAME_SIZE_ERROR),
    ("talkative acknowledgement", GREETING + frame(SETTINGS, ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
    ("push neither on nor off", GREETING + frame(SETTINGS, 0, 0, setting(2, 2)), Code.PROTOCOL_ERROR),
    ("frames too small", GREETING + frame(SETTINGS, 0, 0, setting(5, 16_383)), Code.PROTOCOL_ERROR),
    ("frames too large", GREETING + frame(SETTINGS, 0, 0, setting(5, 1 << 24)), Code.PROTOCOL_ERROR),
    ("window too large", GREETING + frame(SETTINGS, 0, 0, setting(4, 1 << 31)), Code.FLOW_CONTROL_ERROR),
    ("push", GREETING + frame(PUSH, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
    ("ping on a stream", GREETING + frame(PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    ("short ping", GREETING + frame(PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    ("goaway on a stream", GREETING + frame(GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    ("short goaway", GREETING + frame(GOAWAY, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
    ("short window update", GREETING + frame(WINDOW, 0, 0, bytes(3)), Code.FRAME_SIZE_ERROR),
    ("no window", GREETING + window(0, 0), Code.PROTOCOL_ERROR),
    ("too much window", GREETING + window(0, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
    ("window of an idle stream", GREETING + window(1, 1), Code.PROTOCOL_ERROR),
]


@pytest.mark.parametrize(("data", "code"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_a_broken_protocol_ends_the_connection_with_the_reason(data: bytes, code: Code) -> None:
    connection = GrpcConnection()

    connection.receive(data)

    last = sent(connection)[-1]
    assert connection.closed
    assert last.kind == GOAWAY
    assert last.payload[4:8] == code.to_bytes(4, "big")
    assert connection.receive(call(7, b"x")) == []


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (window(1, 0), Code.PROTOCOL_ERROR),
        (window(1, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
        (frame(DATA, 0, 1, b"more"), Code.STREAM_CLOSED),
        (frame(HEADERS, END_HEADERS | END_STREAM, 1), Code.STREAM_CLOSED),
    ],
    ids=["no window", "too much window", "data after the end", "headers after the end"],
)
def test_a_broken_stream_ends_alone(data: bytes, code: Code) -> None:
    connection = greeted()
    connection.receive(call(1, b"x"))

    events = connection.receive(data)

    assert sent(connection) == [Frame(RST, 0, 1, code.to_bytes(4, "big"))]
    assert events == [Cancelled(1)]
    assert connection.receive(call(3, b"y")) == [Call(3, b"y")]


def test_trailers_that_do_not_end_the_stream_reset_it() -> None:
    connection = greeted()

    connection.receive(frame(HEADERS, END_HEADERS, 1) + frame(HEADERS, END_HEADERS, 1))

    assert sent(connection) == [Frame(RST, 0, 1, Code.PROTOCOL_ERROR.to_bytes(4, "big"))]


def test_a_shutdown_serves_on_and_finish_says_which_calls_were_taken() -> None:
    connection = greeted()

    connection.shut_down()
    events = connection.receive(call(1, b"x"))
    connection.answer(1, b"X")
    connection.finish()

    answer = sent(connection)
    assert events == [Call(1, b"x")]
    assert [f.kind for f in answer] == [GOAWAY, HEADERS, DATA, HEADERS, GOAWAY]
    assert answer[0].payload[:8] == (2**31 - 1).to_bytes(4, "big") + bytes(4)
    assert answer[-1].payload[:8] == (1).to_bytes(4, "big") + bytes(4)
    assert connection.closed


def some_frame() -> st.SearchStrategy[bytes]:
    return st.builds(
        frame, st.integers(0, 10), st.integers(0, 255), st.sampled_from([0, 1, 2, 3, 5, 7]), st.binary(max_size=40)
    )


@given(st.one_of(st.binary(), st.lists(some_frame(), max_size=30).map(lambda f: GREETING + b"".join(f))))
@settings(deadline=None)
def test_no_bytes_crash_the_server(data: bytes) -> None:
    connection = GrpcConnection()

    for event in connection.receive(data):
        if isinstance(event, Call):
            connection.answer(event.stream, event.message)

    last = sent(connection)[-1]
    assert connection.closed == (last.kind == GOAWAY)


def conversations() -> st.SearchStrategy[bytes]:
    """Valid and broken alike: what matters is that the cuts between reads do not."""
    calls = st.lists(st.one_of(st.binary(max_size=30), st.just(bytes(20_000))), max_size=6).map(
        lambda bodies: b"".join(
            frame(HEADERS, END_HEADERS, 2 * n + 1, NOT_HPACK)
            + b"".join(
                frame(DATA, 0, 2 * n + 1, message(body)[at : at + 16_384]) for at in range(0, len(body) + 5, 16_384)
            )
            + frame(DATA, END_STREAM, 2 * n + 1)
            for n, body in enumerate(bodies)
        )
    )
    return st.tuples(calls, st.one_of(st.just(b""), some_frame())).map(lambda parts: GREETING + parts[0] + parts[1])


@given(conversations(), st.data())
@settings(deadline=None)
def test_how_the_bytes_are_cut_makes_no_difference(data: bytes, cuts: st.DataObject) -> None:
    whole, pieces = GrpcConnection(), GrpcConnection()
    at, piecewise = 0, []

    expected = whole.receive(data)
    while at < len(data):
        size = cuts.draw(st.integers(1, 9000))
        piecewise += pieces.receive(data[at : at + size])
        at += size

    assert piecewise == expected
    assert pieces.data_to_send() == whole.data_to_send()
    assert pieces.closed == whole.closed


@given(size=st.integers(0, 40_000), window=st.integers(0, 40_000), shrunk=st.booleans())
def test_an_answer_is_the_same_whether_it_fits_at_once_or_not(size: int, window: int, shrunk: bool) -> None:
    connection = greeted()
    table = setting(1, 0) if shrunk else b""
    connection.receive(frame(SETTINGS, 0, 0, setting(4, window) + table) + call(1, b"x"))
    connection.data_to_send()

    connection.answer(1, bytes(size))
    connection.receive(frame(SETTINGS, 0, 0, setting(4, 65_535)))

    answer = [f for f in sent(connection) if f.kind != SETTINGS]
    assert [answer[0].kind, answer[-1].kind, answer[-1].flags] == [HEADERS, HEADERS, END_HEADERS | END_STREAM]
    assert {f.kind for f in answer[1:-1]} <= {DATA}
    assert answer_of(answer, 1) == message(bytes(size))
    assert max(len(f.payload) for f in answer) <= 16_384
    assert connection.idle


def test_answers_that_fit_use_up_the_window_of_the_connection() -> None:
    connection = greeted()
    for stream in range(1, 15, 2):
        connection.receive(call(stream, b"x"))
        connection.answer(stream, bytes(10_000))

    assert sum(len(f.payload) for f in sent(connection) if f.kind == DATA) == 65_535
    assert not connection.idle
