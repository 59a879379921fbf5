"""What records in memory do beyond the promise of every backend (databroker 5 and 12)."""

from datetime import UTC, datetime

import pytest

from pomerium_agent.databroker import MemoryBackend, Options
from pomerium_agent.databroker.changelog import ChangeLog
from pomerium_agent.databroker.table import Table
from pomerium_agent.errors import Unsupported
from pomerium_agent.pb.pomerium import session_pb2
from pomerium_agent.records import Cursor, Payload, Record, pack
from tests.contract.stores import gone, session, struct
from tests.fakes.clock import ManualClock


async def test_in_memory_a_field_that_is_no_longer_indexed_finds_nothing() -> None:
    """C22."""
    backend = MemoryBackend(ManualClock())
    await backend.set_options("a", Options(indexable_fields=("user_id",)))
    await backend.put([Record(type="a", id="1", data=pack(session_pb2.Session(user_id="u")))])
    assert (await backend.query("a", filter={"user_id": "u"}, limit=1)).total_count == 1

    await backend.set_options("a", Options(indexable_fields=("id",)))

    assert (await backend.query("a", filter={"user_id": "u"}, limit=1)).total_count == 0


async def test_a_tombstone_carries_the_data_the_record_had() -> None:
    """Databroker 5, put response for deletes: readers learn what is gone even when the request says nothing."""
    backend = MemoryBackend(ManualClock())
    await backend.put([session("a", "u")])

    (tombstone,) = (await backend.put([gone(session("a").type, "a")])).records

    assert tombstone.data == session("a", "u").data
    assert tombstone.version == 2


async def test_a_patch_enforces_capacity_too() -> None:
    """Databroker 5: Patch."""
    backend = MemoryBackend(ManualClock())
    await backend.put([session("a"), session("b")])
    await backend.set_options(session("a").type, Options(capacity=1))

    await backend.patch([session("a", "u")], ["user_id"])

    assert [record.id for record in (await backend.latest())[1]] == ["a"]


async def test_versions_begin_again_after_clear() -> None:
    """Databroker 12: under the new server version."""
    backend = MemoryBackend(ManualClock())
    await backend.put([session("a"), session("b")])
    _, server_version = await backend.clear()

    await backend.put([session("a")])

    assert (await backend.server_info()).cursor == Cursor(server_version, 1)


async def test_a_negation_is_refused_by_name() -> None:
    """Databroker 6: `$not` is PostgreSQL's."""
    with pytest.raises(Unsupported, match=r"\$not"):
        await MemoryBackend(ManualClock()).query("", filter={"$not": {"id": "a"}}, limit=1)


async def test_data_of_unknown_types_is_kept_as_it_came_and_not_searched() -> None:
    backend = MemoryBackend(ManualClock())
    data = Payload("type.googleapis.com/no.such.Message", b"\xffneedle")
    await backend.set_options("a", Options(indexable_fields=("needle",)))

    await backend.put([Record(type="a", id="1", data=data)])

    assert (await backend.get("a", "1")).data == data
    assert (await backend.query("a", text="needle", limit=1)).total_count == 0


def test_a_removed_record_is_in_no_index() -> None:
    table = Table(["user_id"])
    table.set(session("1", "u"))
    table.set(struct("a", "2", {"$index": {"cidr": "10.0.0.0/8"}}))

    for id in ("1", "2", "3"):
        table.remove(id)

    assert len(table) == 0
    assert not list(table.holding("user_id", "u"))
    assert not list(table.covering("10.0.0.1"))


def test_the_change_log_has_no_gaps() -> None:
    log = ChangeLog()
    log.append(Record(type="a", id="1", version=1, modified_at=datetime(2030, 1, 1, tzinfo=UTC)))

    with pytest.raises(ValueError, match="cannot follow"):
        log.append(Record(type="a", id="1", version=3))
