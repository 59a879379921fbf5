"""Capsules as they come off a stream: cut anywhere, with strange ones among them, or no capsules at all."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.cli.capsules import MAX_PAYLOAD, CapsuleReader, Garbled, capsule

OTHER = bytes((0x17, 0x03)) + b"\0\0\0"  # a type that nobody knows, for all readers to skip
OTHER_CONTEXT = bytes((0x00, 0x03)) + b"\x02ab"  # a datagram that is no UDP payload


def read(pieces: Iterable[bytes]) -> list[bytes]:
    reader = CapsuleReader()
    return [payload for piece in pieces for payload in reader.feed(piece)]


def test_the_bytes_are_those_of_the_specification() -> None:
    """Routes 6.2; RFC 9297, 3.2 and RFC 9298, 5."""
    assert capsule(b"hello") == b"\x00\x06\x00hello"
    assert capsule(b"x" * 63) == b"\x00\x40\x40\x00" + b"x" * 63
    assert capsule(b"x" * 20000)[:6] == b"\x00\x80\x00\x4e\x21\x00"


@given(
    st.lists(st.binary(max_size=200)),
    st.lists(st.integers(0, 2000)),
    st.lists(st.sampled_from((OTHER, OTHER_CONTEXT, b""))),
)
def test_payloads_come_out_whole_wherever_the_stream_is_cut(
    payloads: list[bytes], cuts: list[int], between: list[bytes]
) -> None:
    strange = [*between, *[b""] * len(payloads)]
    stream = b"".join(extra + capsule(payload) for extra, payload in zip(strange, payloads, strict=False))
    places = sorted({0, *(cut for cut in cuts if cut < len(stream)), len(stream)})
    pieces = [stream[a:b] for a, b in pairwise(places)]

    assert read(pieces) == payloads


@given(st.lists(st.binary(max_size=64)))
def test_anything_else_is_read_without_harm(pieces: list[bytes]) -> None:
    try:
        found = read(pieces)
    except Garbled:
        return
    assert all(len(payload) <= MAX_PAYLOAD for payload in found)


def test_nothing_is_kept_of_what_nobody_could_have_sent() -> None:
    with pytest.raises(Garbled, match="longer than any"):
        read([b"\x00\xbf\xff\xff\xff"])
    assert read([b"\x17\xbf\xff\xff\xff", b"x" * 100_000]) == []
    assert read([capsule(b"x" * MAX_PAYLOAD)]) == [b"x" * MAX_PAYLOAD]
    assert read([capsule(b"x" * (MAX_PAYLOAD + 1))]) == []
