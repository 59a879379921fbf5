"""The promise of databroker.Backend: what options do to a type of records (databroker 7; C4, C16-C18, D-17, D-18)."""

import asyncio
from datetime import timedelta

import pytest

from pomerium_agent.databroker import Options
from pomerium_agent.errors import InvalidRequest
from tests.contract.stores import OpenStore, current_ids, end, first, gone, origin, session, so_far, struct
from tests.fakes.clock import settle

URL = "type.googleapis.com/"
BINDINGS = {  # databroker 7
    f"{URL}session.SessionBindingRequest": Options(
        capacity=50_000, indexable_fields=("key",), ttl=timedelta(minutes=15)
    ),
    f"{URL}session.SessionBinding": Options(indexable_fields=("session_id", "user_id")),
    f"{URL}session.IdentityBinding": Options(indexable_fields=("user_id",)),
    f"{URL}oauth21.UpstreamMCPToken": Options(indexable_fields=("user_id", "route_id")),
    f"{URL}oauth21.PendingUpstreamAuth": Options(indexable_fields=("state_id",), ttl=timedelta(minutes=15)),
    f"{URL}pomerium.events.LastError": Options(capacity=50),
}
MINUTE = timedelta(minutes=1)


async def test_capacity_keeps_the_newest_and_tells_readers_of_the_rest(open_store: OpenStore) -> None:
    """C4, V5."""
    async with open_store() as store:
        await store.backend.set_options("a", Options(capacity=3))

        for number in range(10):
            await store.backend.put([struct("a", str(number)), struct("b", str(number))])

        assert await current_ids(store.backend, "a") == ["7", "8", "9"]
        assert len(await current_ids(store.backend, "b")) == 10
        changes = await so_far(store.backend, await origin(store.backend), "a")
        assert [change.id for change in changes if change.deleted] == [str(number) for number in range(7)]


async def test_capacity_counts_the_last_write_not_the_first(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.backend.set_options("a", Options(capacity=2))
        await store.backend.put([struct("a", "1"), struct("a", "2")])

        await store.backend.put([struct("a", "1")])
        await store.backend.put([struct("a", "3")])

        assert await current_ids(store.backend, "a") == ["1", "3"]


async def test_capacity_is_enforced_by_the_next_put(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.backend.put([struct("a", str(number)) for number in range(5)])

        await store.backend.set_options("a", Options(capacity=1))
        assert len(await current_ids(store.backend, "a")) == 5

        await store.backend.put([gone("a", "4")])
        assert await current_ids(store.backend, "a") == ["3"]


async def test_a_capacity_of_none_keeps_nothing(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.backend.set_options("a", Options(capacity=0))

        await store.backend.put([struct("a", "1"), struct("a", "2")])

        assert await store.backend.list_types() == ()


@pytest.mark.parametrize("capacity", [None, 0, 7])
@pytest.mark.parametrize("fields", [(), ("one",), ("one", "two.three")])
@pytest.mark.parametrize("ttl", [None, timedelta(0), timedelta(hours=1, microseconds=1)])
async def test_options_are_read_back_exactly(
    open_store: OpenStore, capacity: int | None, fields: tuple[str, ...], ttl: timedelta | None
) -> None:
    """C16: with every combination; empty options remove what was stored."""
    options = Options(capacity=capacity, indexable_fields=fields, ttl=ttl)
    async with open_store() as store:
        assert await store.backend.get_options("a") is None
        await store.backend.set_options("a", Options(capacity=99))

        await store.backend.set_options("a", options)

        assert await store.backend.get_options("a") == (None if options == Options() else options)
        assert await store.backend.get_options("b") is None


async def test_options_that_make_no_sense_are_refused(open_store: OpenStore) -> None:
    """D-4."""
    async with open_store() as store:
        with pytest.raises(InvalidRequest, match="type is empty"):
            await store.backend.get_options("")
        for type, options in (
            ("", Options(capacity=1)),
            ("a", Options(capacity=-1)),
            ("a", Options(ttl=-MINUTE)),
        ):
            with pytest.raises(InvalidRequest):
                await store.backend.set_options(type, options)


async def test_a_store_opens_with_the_built_in_options_and_clear_brings_them_back(open_store: OpenStore) -> None:
    """D-18, V14."""
    async with open_store() as store:
        assert {type: await store.backend.get_options(type) for type in BINDINGS} == BINDINGS

        for type in BINDINGS:
            await store.backend.set_options(type, Options(capacity=1))
        await store.backend.set_options("a", Options(capacity=1))
        await store.backend.clear()

        assert {type: await store.backend.get_options(type) for type in BINDINGS} == BINDINGS
        assert await store.backend.get_options("a") is None


async def test_expired_records_vanish_and_others_stay(open_store: OpenStore) -> None:
    """C17: an update starts the time again; types without a ttl keep theirs."""
    async with open_store() as store:
        await store.backend.set_options("a", Options(ttl=MINUTE))
        await store.backend.put([struct("a", "old"), struct("a", "used"), struct("b", "kept")])

        store.clock.jump(40)
        await store.backend.put([struct("a", "used"), struct("a", "new")])
        await store.backend.clean_up()
        assert await current_ids(store.backend) == ["new", "old", "used", "kept"]

        store.clock.jump(40)
        await store.backend.clean_up()
        assert await current_ids(store.backend) == ["new", "used", "kept"]


async def test_ttl_and_capacity_work_together(open_store: OpenStore) -> None:
    """C17."""
    async with open_store() as store:
        await store.backend.set_options("a", Options(ttl=MINUTE, capacity=2))
        await store.backend.put([struct("a", "1"), struct("a", "2")])
        store.clock.jump(40)
        await store.backend.put([struct("a", "3")])

        store.clock.jump(40)
        await store.backend.clean_up()

        assert await current_ids(store.backend) == ["3"]


async def test_expiry_wakes_waiting_readers_with_one_tombstone_a_record(open_store: OpenStore) -> None:
    """C18."""
    async with open_store() as store:
        await store.backend.set_options("a", Options(ttl=MINUTE))
        await store.backend.put([struct("a", "1"), struct("a", "2"), session("kept")])
        cursor = await end(store.backend)

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(first(2, store.backend.changes(cursor)))
            await settle()
            store.clock.jump(61)
            await store.backend.clean_up()
            await store.backend.clean_up()

        assert [(change.id, change.deleted_at) for change in reading.result()] == [
            ("1", store.clock.now()),
            ("2", store.clock.now()),
        ]
        assert len(await so_far(store.backend, cursor)) == 2
