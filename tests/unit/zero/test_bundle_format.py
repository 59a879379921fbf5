"""A bundle's bytes: what is read, what is rejected, and where the trouble is said to begin."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.errors import ConfigRejected
from pomerium_agent.pb.pomerium import databroker_pb2
from pomerium_agent.records import Payload, Record, record_to_message
from pomerium_agent.zero.bundle_format import MAX_RECORD_BYTES, BundleReader, read_bundle
from tests.fakes.control_plane import encode_bundle


def record(id: str, value: bytes = b"x", type: str = "t") -> Record:
    return Record(type=type, id=id, data=Payload("type.googleapis.com/t", value))


records = st.lists(
    st.builds(record, st.text(max_size=5), st.binary(max_size=300), st.sampled_from(["a", "b"])), max_size=10
)


@given(records, st.integers(1, 400))
def test_a_bundle_reads_the_same_in_whatever_pieces_it_comes(written: list[Record], size: int) -> None:
    """Z-37."""
    content = encode_bundle(written)

    reader = BundleReader()
    for start in range(0, len(content), size):
        reader.feed(content[start : start + size])

    assert reader.finish() == tuple({(one.type, one.id): one for one in written}.values())


def test_of_two_records_with_one_key_the_last_wins() -> None:
    """Z-37."""
    content = encode_bundle([record("a", b"old"), record("b"), record("a", b"new")])

    assert read_bundle(content) == (record("a", b"new"), record("b"))


def test_only_type_id_and_data_matter() -> None:
    """Zero link 11.5."""
    message = databroker_pb2.Record(version=7, type="t", id="a")
    message.deleted_at.GetCurrentTime()
    message.modified_at.seconds = 2**62  # no time that anybody could name
    encoded = message.SerializeToString()

    assert read_bundle(bytes([len(encoded)]) + encoded) == (Record(type="t", id="a"),)


def test_types_and_fields_that_nobody_knows_are_kept_as_they_are() -> None:
    unknown_field = b"\xba\x3e\x01x"  # field 999
    encoded = databroker_pb2.Record(type="example.com/Unheard", id="a").SerializeToString() + unknown_field
    encoded += b"\x22\x05\x12\x03\xff\xfe\xfd"  # data without a type URL, whose bytes are no message

    (found,) = read_bundle(bytes([len(encoded)]) + encoded)

    assert (found.type, found.data) == ("example.com/Unheard", Payload("", b"\xff\xfe\xfd"))


def test_nothing_at_all_is_an_empty_bundle() -> None:
    assert read_bundle(b"") == ()


@given(records.filter(bool), st.data())
def test_a_bundle_cut_anywhere_but_between_records_is_rejected(written: list[Record], data: st.DataObject) -> None:
    """Z-36."""
    content = encode_bundle(written)
    ends = {len(encode_bundle(written[:count])) for count in range(len(written) + 1)}
    cut = data.draw(st.integers(0, len(content)).filter(lambda place: place not in ends))
    last_end = max(end for end in ends if end < cut)

    with pytest.raises(ConfigRejected, match=f"cut short: the record at byte {last_end} is not complete at byte {cut}"):
        read_bundle(content[:cut])


def test_a_record_over_the_limit_is_rejected_before_it_is_read() -> None:
    """Z-37."""
    begun = encode_bundle([record("a")])
    too_long = bytes([0x81, 0x80, 0x80, 0x02])  # 4 MiB and one byte

    with pytest.raises(
        ConfigRejected, match=rf"record at byte {len(begun)} says it has {MAX_RECORD_BYTES + 1} bytes; at most"
    ):
        read_bundle(begun + too_long)


def test_a_record_at_the_limit_is_read() -> None:
    """Z-37."""
    around = len(record_to_message(record("a", bytes(4_000_000))).SerializeToString()) - 4_000_000
    room = MAX_RECORD_BYTES - around
    content = encode_bundle([record("a", bytes(room))])

    assert read_bundle(content) == (record("a", bytes(room)),)


def test_a_bundle_over_the_limit_is_rejected() -> None:
    """W8."""
    reader = BundleReader(max_bytes=100)

    with pytest.raises(ConfigRejected, match="larger than 100 bytes"):
        reader.feed(encode_bundle([record("a", bytes(101))]))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"<html><body>It works!</body></html>" * 10, "record at byte 0 cannot be decoded; this is not a bundle"),
        (b"\xff" * 20, "length at byte 0 is not a varint"),
        (b"\x00\x00", "record at byte 0 has no type"),
        (b"\x03\xff\xff\xff", "record at byte 0 cannot be decoded"),
    ],
)
def test_bytes_that_are_no_bundle_are_rejected_with_the_place(content: bytes, complaint: str) -> None:
    with pytest.raises(ConfigRejected, match=complaint):
        read_bundle(content)
