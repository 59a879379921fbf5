"""The way from the records there are to the records a bundle wants."""

from datetime import UTC, datetime

import pytest
from google.protobuf import struct_pb2
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.databroker.bundle_entry import CACHE_ENTRY_TYPE, CacheEntry, entry_from_record, entry_to_record
from pomerium_agent.pb.pomerium import databroker_pb2
from pomerium_agent.records import Payload, Record, pack, record_to_message
from pomerium_agent.zero.reconcile import Difference, difference, put_requests

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def record(id: str, value: bytes = b"", type: str = "t", version: int = 0) -> Record:
    return Record(type=type, id=id, data=Payload("u", value), version=version)


some = st.dictionaries(
    st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), st.sampled_from([b"1", b"2"]), max_size=6
).map(lambda found: [record(id, value, type) for (type, id), value in found.items()])


@given(some, some)
def test_applying_a_difference_gives_exactly_what_is_wanted(current: list[Record], wanted: list[Record]) -> None:
    """Z-38."""
    change = difference(current, wanted)

    result = {(r.type, r.id): r.data for r in current}
    for batch in put_requests(change, NOW, max_bytes=20):
        for one in batch:
            if one.deleted:
                del result[one.type, one.id]
            else:
                result[one.type, one.id] = one.data
    assert result == {(r.type, r.id): r.data for r in wanted}


def test_what_is_equal_is_left_alone() -> None:
    """Z-38: data is compared, versions and times are not."""
    assert difference([record("a", b"1", version=7)], [record("a", b"1")]).empty
    assert difference([record("a", b"1")], [record("a", b"2")]) == Difference(modifications=(record("a", b"2"),))
    other_type = Record(type="t", id="a", data=Payload("v", b"1"))
    assert difference([record("a", b"1")], [other_type]) == Difference(modifications=(other_type,))


def test_a_route_that_moves_to_a_new_record_is_there_before_it_leaves_the_old_one() -> None:
    """W12: also when the two do not fit into one write."""
    change = Difference(
        additions=(record("new"),), modifications=(record("changed", b"2"),), deletions=(record("old"),)
    )

    batches = list(put_requests(change, NOW, max_bytes=1))

    assert [one.id for batch in batches for one in batch] == ["new", "changed", "old"]


def test_a_deletion_carries_the_old_record_and_comes_last() -> None:
    """Zero link 12.2, W12."""
    change = Difference(additions=(record("new"),), deletions=(record("old", b"1", version=3),))

    (batch,) = put_requests(change, NOW)

    assert batch == (record("new"), record("old", b"1", version=3).as_deleted(NOW))


@given(st.lists(st.integers(0, 400), max_size=30), st.integers(50, 500))
def test_no_write_is_over_the_limit_unless_one_record_is(sizes: list[int], limit: int) -> None:
    """Z-39."""
    additions = tuple(record(f"{number:03}", bytes(size)) for number, size in enumerate(sizes))

    batches = list(put_requests(Difference(additions=additions), NOW, max_bytes=limit))

    assert [one for batch in batches for one in batch] == list(additions)
    for batch in batches:
        size = databroker_pb2.PutRequest(records=map(record_to_message, batch)).ByteSize()
        assert size <= limit or len(batch) == 1


def test_a_cache_entry_is_stored_as_the_reference_stores_it() -> None:
    """Z-40."""
    entry = CacheEntry(etag='"1"', last_modified="yesterday", record_types=("a", "b"))

    stored = entry_to_record("config", entry)

    expected = struct_pb2.Struct()
    expected.update({"etag": '"1"', "last_modified": "yesterday", "record_types": ["a", "b"]})
    assert (stored.type, stored.id) == ("pomerium.io/BundleCacheEntry", "config")
    assert stored.data is not None
    assert stored.data.type_url == "type.googleapis.com/google.protobuf.Struct"
    assert struct_pb2.Struct.FromString(stored.data.value) == expected


def test_a_cache_entry_of_the_reference_is_understood() -> None:
    """Z-41."""
    entry = CacheEntry(etag='"1"', last_modified="yesterday", record_types=("a", "b"))

    assert entry_from_record(entry_to_record("config", entry)) == entry


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"etag": "", "record_types": ["a"]},
        {"etag": "1", "record_types": []},
        {"etag": 1, "record_types": ["a"]},
        {"etag": "1", "record_types": "a"},
        {"etag": "1", "record_types": [1]},
    ],
)
def test_a_cache_entry_that_is_not_valid_is_none(fields: dict[str, str]) -> None:
    """Z-41: zero link 12.1."""
    struct = struct_pb2.Struct()
    struct.update(fields)

    assert entry_from_record(Record(type=CACHE_ENTRY_TYPE, id="x", data=pack(struct))) is None


@pytest.mark.parametrize(
    "data", [None, Payload("x", b"y"), Payload("type.googleapis.com/google.protobuf.Struct", b"\xff")]
)
def test_an_unreadable_cache_entry_is_none(data: Payload | None) -> None:
    """Z-41."""
    assert entry_from_record(Record(type=CACHE_ENTRY_TYPE, id="x", data=data)) is None
