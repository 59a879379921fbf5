"""How many people a cluster serves a day and a month, estimated from one bit per person (zero link 15)."""

import asyncio
import base64
import binascii
import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import structlog
from google.protobuf import struct_pb2

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.errors import RecordNotFound, Retryable
from pomerium_agent.pb.pomerium import session_pb2
from pomerium_agent.records import Record, pack, type_url, unpack
from pomerium_agent.runtime.clock import Clock

log = structlog.get_logger(__name__)

SESSION = type_url(session_pb2.Session)
STATE = "pomerium.io/ActiveUsersMetricState"
DAU, MAU = "dau", "mau"
BITS = 2500
_WORDS = 40
_LAYOUT = struct.Struct(f">Q{_WORDS}Q")  # the number of bits, then 64 of them a word; 328 bytes
_WORD = (1 << 64) - 1
INTERVAL = 3600.0
BEFORE_MIDNIGHT = timedelta(minutes=1)


class StateUnreadable(Retryable):
    """The record that holds a counter is not what it should be."""


@dataclass(frozen=True, slots=True)
class ActiveUsers:
    """One counter: linear probabilistic counting over `BITS` bits, which are here the bits of one number (Z-59)."""

    last_reset: datetime
    bits: int = 0

    def marked(self, user_ids: Iterable[str]) -> "ActiveUsers":
        """The same, and these people were seen."""
        bits = self.bits
        for user_id in user_ids:
            bits |= 1 << bit_of(user_id)
        return replace(self, bits=bits)

    @property
    def count(self) -> int:
        """How many people that stands for."""
        zeros = max(BITS - self.bits.bit_count(), 1)  # all bits set: more than can be counted
        return math.trunc(-BITS * math.log(zeros / BITS))

    def to_bytes(self) -> bytes:
        """The 328 bytes that are stored."""
        return _LAYOUT.pack(BITS, *((self.bits >> (64 * word)) & _WORD for word in range(_WORDS)))


def bit_of(user_id: str) -> int:
    """Which bit stands for this person."""
    return zlib.crc32(user_id.encode()) % BITS


def bits_from(data: bytes) -> int | None:
    """The bits in what `to_bytes` wrote, or the reference; None when it is something else."""
    if len(data) != _LAYOUT.size:
        return None
    length, *words = _LAYOUT.unpack(data)
    bits = sum(word << (64 * number) for number, word in enumerate(words))
    return bits if length == BITS and bits < 1 << BITS else None


def same_period(id: str, one: datetime, other: datetime) -> bool:
    """Whether both moments are on the same day, or for `mau` in the same month, in UTC."""
    fields = 3 if id == DAU else 2
    return one.astimezone(UTC).timetuple()[:fields] == other.astimezone(UTC).timetuple()[:fields]


def state_record(id: str, counter: ActiveUsers) -> Record:
    """The counter as the reference stores it (Z-60)."""
    state = struct_pb2.Struct()
    state["count"] = counter.count
    state["data"] = base64.b64encode(counter.to_bytes()).decode()
    state["last_reset"] = counter.last_reset.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Record(type=STATE, id=id, data=pack(state))


def read_state(record: Record) -> ActiveUsers | None:
    """The counter in a record; None when its bits are no bits of ours. Raises StateUnreadable for all else."""
    state = unpack(record.data, struct_pb2.Struct)
    fields = state.fields if state is not None else {}
    missing = [key for key in ("count", "data", "last_reset") if key not in fields]
    if missing:
        raise StateUnreadable(f"{STATE} {record.id}: {missing[0]} is missing")
    try:
        data = base64.b64decode(fields["data"].string_value, validate=True)
        last_reset = datetime.fromisoformat(fields["last_reset"].string_value)
    except (binascii.Error, ValueError) as error:
        raise StateUnreadable(f"{STATE} {record.id}: {error}") from error
    if not data or last_reset.tzinfo is None:
        raise StateUnreadable(f"{STATE} {record.id}: data is empty, or last_reset has no time zone")
    bits = bits_from(data)
    return None if bits is None else ActiveUsers(last_reset, bits)


def active_since(records: Iterable[Record], since: datetime) -> set[str]:
    """The people among the sessions in `records` who used theirs since then."""
    users = set()
    earliest = int(since.timestamp())
    for record in records:
        session = unpack(record.data, session_pb2.Session)
        if session is not None and session.user_id and session.accessed_at.seconds >= earliest:
            users.add(session.user_id)
    return users


async def stored_counts(backend: Backend) -> dict[str, int]:
    """`dau` and `mau` as last stored; one that was never stored is left out. Raises DatabrokerUnavailable."""
    counts = {}
    for id in (DAU, MAU):
        try:
            state = unpack((await backend.get(STATE, id)).data, struct_pb2.Struct)
        except RecordNotFound:
            continue
        if state is not None and math.isfinite(count := state.fields["count"].number_value):
            counts[id] = int(count)
    return counts


async def count_active_users(backend: Backend, clock: Clock) -> None:
    """Count at once, every hour, and once more before the day ends, until cancelled (W15).

    Raises DatabrokerUnavailable, and StateUnreadable.
    """
    while True:
        await sample(backend, clock.now())
        await clock.sleep(_until_next(clock.now()))


async def sample(backend: Backend, now: datetime) -> None:
    """Mark who was active today in both counters, and store those that changed."""
    _, sessions = await backend.latest(SESSION)
    midnight = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    users = await asyncio.to_thread(active_since, sessions, midnight)
    changed = [record for id in (DAU, MAU) if (record := await _counted(backend, id, users, now)) is not None]
    if changed:
        await backend.put(changed)


async def _counted(backend: Backend, id: str, users: set[str], now: datetime) -> Record | None:
    try:
        before = read_state(await backend.get(STATE, id))
        if before is None:
            log.warning("active users are counted anew: what was stored cannot be read", counter=id)
    except RecordNotFound:
        before = None
    counter = before or ActiveUsers(now)
    if not same_period(id, counter.last_reset, now):
        counter = ActiveUsers(now)
    counter = counter.marked(users)
    # Also when a day has as many people as the one before: else they would be forgotten when their sessions end.
    return state_record(id, counter) if counter != (before or ActiveUsers(now)) else None


def _until_next(now: datetime) -> float:
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    last = (midnight - BEFORE_MIDNIGHT - now).total_seconds()
    return last if 0 < last < INTERVAL else INTERVAL
