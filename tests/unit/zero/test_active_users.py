"""Active users: the counter, the record it is kept in, and when it begins anew."""

import asyncio
import base64
import struct
from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf import struct_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.errors import RecordNotFound
from pomerium_agent.pb.pomerium import session_pb2
from pomerium_agent.records import Record, pack, unpack
from pomerium_agent.zero.active_users import (
    BITS,
    SESSION,
    STATE,
    ActiveUsers,
    StateUnreadable,
    bit_of,
    bits_from,
    count_active_users,
    read_state,
    same_period,
    sample,
    state_record,
    stored_counts,
)
from tests.fakes.clock import ManualClock, settle

NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)


def session(id: str, user_id: str, accessed_at: datetime | None) -> Record:
    message = session_pb2.Session(id=id, user_id=user_id)
    if accessed_at is not None:
        stamp = Timestamp()
        stamp.FromDatetime(accessed_at)
        message.accessed_at.CopyFrom(stamp)
    return Record(type=SESSION, id=id, data=pack(message))


def fields(record: Record) -> struct_pb2.Struct:
    state = unpack(record.data, struct_pb2.Struct)
    assert state is not None
    return state


@pytest.mark.parametrize(("user_id", "bit"), [("user1", 289), ("user2", 715), ("user3", 1577)])
def test_each_person_has_a_bit(user_id: str, bit: int) -> None:
    """Z-59: the vectors of zero link 15."""
    assert bit_of(user_id) == bit


@pytest.mark.parametrize(("bits", "estimate"), [(0, 0), (1, 1), (3, 3), (50, 50), (51, 51), (100, 102), (500, 557)])
def test_bits_are_an_estimate_of_people(bits: int, estimate: int) -> None:
    """Z-59: the vectors of zero link 15."""
    assert ActiveUsers(NOON, (1 << bits) - 1).count == estimate


def test_more_people_than_can_be_counted_are_still_a_number() -> None:
    assert ActiveUsers(NOON, (1 << BITS) - 1).count > BITS


def test_the_layout_is_the_number_of_bits_and_forty_words() -> None:
    """Z-59: 328 bytes, big-endian words, the least significant bit first."""
    data = ActiveUsers(NOON).marked(["user1", "user3"]).to_bytes()

    words = struct.unpack(">41Q", data)
    assert (len(data), words[0]) == (328, 2500)
    assert {n: word for n, word in enumerate(words[1:]) if word} == {
        289 // 64: 1 << 289 % 64,
        1577 // 64: 1 << 1577 % 64,
    }


@given(st.sets(st.text(max_size=20), max_size=50))
def test_a_counter_survives_its_record(users: set[str]) -> None:
    """Z-59, Z-60."""
    counter = ActiveUsers(NOON).marked(users)

    assert read_state(state_record("dau", counter)) == counter


@given(st.binary(max_size=400))
def test_bits_of_somebody_else_are_none_or_within_bounds(data: bytes) -> None:
    bits = bits_from(data)
    assert bits is None or bits < 1 << BITS


def test_the_record_is_the_references() -> None:
    """Z-60: type, id, keys, and how each is written."""
    record = state_record("mau", ActiveUsers(NOON.astimezone(timezone(timedelta(hours=5)))).marked(["user1"]))

    state = fields(record)
    assert (record.type, record.id) == ("pomerium.io/ActiveUsersMetricState", "mau")
    assert record.data is not None
    assert record.data.type_url == "type.googleapis.com/google.protobuf.Struct"
    assert set(state.fields) == {"count", "data", "last_reset"}
    assert (state["count"], state["last_reset"]) == (1, "2030-01-31T12:00:00Z")
    assert len(base64.b64decode(str(state["data"]), validate=True)) == 328


@pytest.mark.parametrize(
    ("key", "value"),
    [("count", None), ("data", None), ("last_reset", None), ("data", ""), ("data", "!"), ("last_reset", "yesterday")],
)
def test_a_record_that_is_not_whole_is_an_error_that_may_pass(key: str, value: str | None) -> None:
    """Zero link 15, load."""
    state = fields(state_record("dau", ActiveUsers(NOON)))
    if value is None:
        del state.fields[key]
    else:
        state[key] = value

    with pytest.raises(StateUnreadable, match="ActiveUsersMetricState dau"):
        read_state(Record(type=STATE, id="dau", data=pack(state)))


def test_days_and_months_are_those_of_utc() -> None:
    """Z-59: 01:00 in Tokyo is still the day before."""
    tokyo = timezone(timedelta(hours=9))
    assert same_period("dau", NOON, datetime(2030, 2, 1, 1, tzinfo=tokyo))
    assert not same_period("dau", NOON, NOON + timedelta(days=1))
    assert same_period("mau", NOON, NOON - timedelta(days=20))
    assert not same_period("mau", NOON, NOON + timedelta(days=1))
    assert not same_period("mau", NOON, NOON.replace(year=2031))


async def test_who_was_active_today_is_counted_and_a_new_day_begins_anew() -> None:
    """Z-59: the day begins anew, the month goes on."""
    backend = MemoryBackend(ManualClock(NOON))
    yesterday = NOON - timedelta(days=1)
    await backend.put(
        [
            session("s1", "user1", yesterday),
            session("s2", "user1", yesterday),
            session("s3", "user2", yesterday - timedelta(days=1)),
            session("s4", "", yesterday),
            session("s5", "user4", None),
        ]
    )
    await sample(backend, yesterday)
    assert await stored_counts(backend) == {"dau": 1, "mau": 1}

    await backend.put([session("s6", "user2", NOON)])
    await sample(backend, NOON)

    assert await stored_counts(backend) == {"dau": 1, "mau": 2}
    assert fields(await backend.get(STATE, "dau"))["last_reset"] == "2030-01-31T12:00:00Z"
    await sample(backend, NOON + timedelta(days=1))
    assert await stored_counts(backend) == {"dau": 0, "mau": 0}
    await backend.close()


async def test_what_did_not_change_is_not_written() -> None:
    """Zero link 15: neither when nobody was there, nor when the same people were."""
    backend = MemoryBackend(ManualClock(NOON))
    await sample(backend, NOON)
    with pytest.raises(RecordNotFound):
        await backend.get(STATE, "dau")
    assert await stored_counts(backend) == {}

    await backend.put([session("s1", "user1", NOON)])
    await sample(backend, NOON)
    before = (await backend.get(STATE, "dau")).version
    await sample(backend, NOON + timedelta(hours=1))

    assert (await backend.get(STATE, "dau")).version == before
    await backend.close()


async def test_bits_that_cannot_be_read_are_counted_anew() -> None:
    """Zero link 15, load."""
    backend = MemoryBackend(ManualClock(NOON))
    state = fields(state_record("dau", ActiveUsers(NOON)))
    state["data"] = base64.b64encode(b"x" * 10).decode()
    await backend.put([Record(type=STATE, id="dau", data=pack(state)), session("s1", "user1", NOON)])

    await sample(backend, NOON)

    assert (await stored_counts(backend))["dau"] == 1
    await backend.close()


async def test_people_are_counted_at_once_and_before_the_day_ends() -> None:
    """W15: somebody who came at a quarter past eleven is counted on that day."""
    clock = ManualClock(datetime(2030, 1, 1, 23, 10, tzinfo=UTC))
    backend = MemoryBackend(clock)
    await backend.put([session("s1", "user1", clock.now())])

    async def until_counted(people: int) -> None:
        async with asyncio.timeout(5):
            while (await stored_counts(backend)).get("dau") != people:
                await settle()
                await asyncio.sleep(0)

    task = asyncio.create_task(count_active_users(backend, clock))
    await until_counted(1)
    await clock.until_sleeping()
    await backend.put([session("s2", "user2", clock.now())])
    await clock.advance(49 * 60)
    await until_counted(2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await backend.close()
