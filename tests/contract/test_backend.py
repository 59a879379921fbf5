"""The promise of databroker.Backend: records, versions, the change log, patches, leases (D-23; C1-C15 …)."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pomerium_agent.errors import AgentError, CursorExpired, DatabrokerUnavailable, InvalidRequest, RecordNotFound
from pomerium_agent.records import Cursor, Payload, Record
from tests.contract.stores import (
    DIRECTORY_USER,
    EVERYTHING,
    SESSION,
    SOON,
    USER,
    OpenStore,
    current_ids,
    end,
    first,
    found_ids,
    gone,
    origin,
    session,
    session_in,
    so_far,
    struct,
    user,
)
from tests.fakes.clock import settle

HOUR = 3600.0
TTL = timedelta(seconds=30)


# Records


async def test_reading_a_record_that_never_was_says_so(open_store: OpenStore) -> None:
    """C1, D-4."""
    async with open_store() as store:
        with pytest.raises(RecordNotFound, match="ada"):
            await store.backend.get(SESSION, "ada")


async def test_what_was_put_is_read_back_with_version_and_time(open_store: OpenStore) -> None:
    """C2, C15."""
    async with open_store() as store:
        written = await store.backend.put([struct("a", "1", {"k": "v"}), struct("a", "2", {"k": 2})])

        assert written.server_version != 0
        assert [record.id for record in written.records] == ["1", "2"]
        assert await store.backend.get("a", "1") == written.records[0]
        assert written.records[0].data == struct("a", "1", {"k": "v"}).data
        assert written.records[0].modified_at == store.clock.now()
        info = await store.backend.server_info()
        assert info.server_version == written.server_version
        assert info.latest_record_version == written.records[-1].version > 0


async def test_an_empty_any_stays_an_empty_any(open_store: OpenStore) -> None:
    """C12."""
    async with open_store() as store:
        await store.backend.put([Record(type="a", id="1", data=Payload())])

        record = await store.backend.get("a", "1")

        assert record.data == Payload()
        assert record.deleted_at is None
        assert record.modified_at is not None


async def test_put_replaces_the_whole_data(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.backend.put([session("ada", "u1", subject="s")])

        await store.backend.put([session("ada", access_token="t")])

        assert (await store.backend.get(SESSION, "ada")).data == session("ada", access_token="t").data


async def test_versions_and_times_of_the_caller_are_ignored(open_store: OpenStore) -> None:
    """D-11."""
    long_ago = datetime(1999, 1, 1, tzinfo=UTC)
    async with open_store() as store:
        forged = replace(session("ada"), version=10**15, modified_at=long_ago)

        (record,) = (await store.backend.put([forged])).records
        (tombstone,) = (await store.backend.put([replace(forged, deleted_at=long_ago)])).records

        assert record.version < tombstone.version < 10**15
        assert record.modified_at == tombstone.modified_at == tombstone.deleted_at == store.clock.now()


async def test_versions_of_all_types_come_from_one_growing_counter(open_store: OpenStore) -> None:
    """D-13."""
    async with open_store() as store:
        written = [
            await store.backend.put([session("a"), user("a"), session("a")]),
            await store.backend.put([gone(SESSION, "a"), user("b")]),
            await store.backend.patch([session("a"), user("b", "Bea")], ["id"]),
        ]

        versions = [record.version for answer in written for record in answer.records]
        assert versions == sorted(set(versions))
        assert [change.version for change in await so_far(store.backend, await origin(store.backend))] == versions


async def test_deleting_what_never_was_succeeds_and_is_logged(open_store: OpenStore) -> None:
    """C3."""
    async with open_store() as store:
        await store.backend.put([gone(SESSION, "nobody")])

        (change,) = await so_far(store.backend, await origin(store.backend))
        assert (change.id, change.deleted) == ("nobody", True)


async def test_a_deleted_record_is_seen_in_the_changes_and_nowhere_else(open_store: OpenStore) -> None:
    """D-7."""
    async with open_store() as store:
        await store.backend.put([session("ada", "u1"), user("u1")])
        cursor = await end(store.backend)

        await store.backend.put([gone(SESSION, "ada")])

        (change,) = await so_far(store.backend, cursor)
        assert (change.type, change.id, change.deleted) == (SESSION, "ada", True)
        with pytest.raises(RecordNotFound):
            await store.backend.get(SESSION, "ada")
        assert await found_ids(store.backend, SESSION) == []
        assert await found_ids(store.backend, "", {"id": "ada"}) == []
        assert await current_ids(store.backend) == ["u1"]
        assert await store.backend.list_types() == (USER,)


async def test_types_are_listed_sorted_and_only_while_they_have_records(open_store: OpenStore) -> None:
    """C8."""
    async with open_store() as store:
        await store.backend.put([struct("c", "1"), struct("a", "1"), struct("b", "1"), gone("d", "1")])
        await store.backend.put([gone("b", "1")])

        assert await store.backend.list_types() == ("a", "c")


async def test_all_current_records_come_once_each_in_order_of_type_and_id(open_store: OpenStore) -> None:
    """C6: more than a page."""
    async with open_store() as store:
        for number in reversed(range(100)):
            await store.backend.put([struct("b", f"{number:03}")])
        await store.backend.put([struct("a", "last")])

        cursor, records = await store.backend.latest("b")

        assert [record.id for record in records] == [f"{number:03}" for number in range(100)]
        assert cursor == await end(store.backend)
        assert [r.type for r in (await store.backend.latest())[1]] == ["a"] + ["b"] * 100


async def test_many_callers_at_once_neither_crash_nor_block(open_store: OpenStore) -> None:
    """C13, C14: with empty types and no data, and while types appear; a refusal is an answer too."""
    async with open_store() as store:

        async def call(number: int) -> None:
            with suppress(AgentError):
                await store.backend.put([Record(type="", id=str(number))])
            with suppress(AgentError):
                await store.backend.get("", str(number))
            await store.backend.put([struct(f"type-{number}", "1")])
            types = await store.backend.list_types()
            assert list(types) == sorted(types)

        async with asyncio.timeout(4 * SOON), asyncio.TaskGroup() as group:
            for number in range(1000):
                group.create_task(call(number))

        assert {f"type-{number}" for number in range(1000)} <= set(await store.backend.list_types())


# The change log


async def test_an_empty_store_has_an_identity_and_no_changes(open_store: OpenStore) -> None:
    """C25."""
    async with open_store() as store:
        cursor, records = await store.backend.latest()

        assert cursor.server_version != 0
        assert records == ()
        assert await so_far(store.backend, cursor) == []


async def test_a_reader_misses_nothing_written_after_its_cursor(open_store: OpenStore) -> None:
    """C7: ten puts, in order, to a reader that waits."""
    async with open_store() as store:
        await store.backend.put([session("before")])
        cursor, _ = await store.backend.latest()

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(first(10, store.backend.changes(cursor)))
            await settle()
            for number in range(10):
                await store.backend.put([session(str(number))])

        assert [change.id for change in reading.result()] == [str(number) for number in range(10)]


async def test_a_reader_of_one_type_sees_only_that_type(open_store: OpenStore) -> None:
    async with open_store() as store:
        cursor = await origin(store.backend)

        await store.backend.put([user("u"), session("s"), user("u"), gone(SESSION, "s")])

        changes = await so_far(store.backend, cursor, SESSION)
        assert [(change.id, change.deleted) for change in changes] == [("s", False), ("s", True)]


async def test_concurrent_writers_are_seen_completely_and_in_order(open_store: OpenStore) -> None:
    """D-13."""
    async with open_store() as store:
        cursor = await origin(store.backend)

        async def write(writer: int) -> None:
            for number in range(20):
                await store.backend.put([struct("a", f"{writer}-{number}"), struct("b", f"{writer}-{number}")])

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(first(400, store.backend.changes(cursor)))
            for writer in range(10):
                group.create_task(write(writer))

        versions = [change.version for change in reading.result()]
        assert versions == sorted(set(versions))
        assert len({(change.type, change.id) for change in reading.result()}) == 400


async def test_an_old_cursor_works_until_its_place_is_cleaned_up(open_store: OpenStore) -> None:
    """C24, D-17: changes stay for an hour, and the newest stays for ever."""
    async with open_store() as store:
        await store.backend.put([session("a")])
        await store.backend.put([session("b")])
        start, newest = await origin(store.backend), await end(store.backend)

        store.clock.jump(HOUR - 1)
        await store.backend.clean_up()
        assert [change.id for change in await so_far(store.backend, start)] == ["a", "b"]

        store.clock.jump(2 * HOUR)
        await store.backend.clean_up()
        with pytest.raises(CursorExpired, match="record version"):
            await so_far(store.backend, start)
        before_newest = Cursor(newest.server_version, newest.record_version - 1)
        assert [change.id for change in await so_far(store.backend, before_newest)] == ["b"]
        assert await so_far(store.backend, newest) == []
        assert await current_ids(store.backend) == ["a", "b"]


async def test_a_cursor_of_another_data_set_is_refused(open_store: OpenStore) -> None:
    async with open_store() as store:
        cursor = await origin(store.backend)

        with pytest.raises(CursorExpired, match="server version"):
            await so_far(store.backend, Cursor(cursor.server_version + 1, 0))


async def test_a_waiting_reader_of_a_quiet_type_outlives_the_clean_up_of_others(open_store: OpenStore) -> None:
    """V11: what it waited through was never its own."""
    async with open_store() as store:
        cursor = await end(store.backend)

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(first(1, store.backend.changes(cursor, SESSION)))
            for _ in range(3):
                before = await end(store.backend)
                await store.backend.put([user("u")])
                await first(1, store.backend.changes(before))  # it was heard of, and whoever waits was woken
                for _ in range(5):  # a server takes its time: they looked before us, and have seen what we see
                    await so_far(store.backend, before)
                store.clock.jump(2 * HOUR)
                await store.backend.clean_up()
            await store.backend.put([session("s")])

        assert [change.id for change in reading.result()] == ["s"]


async def test_a_cancelled_reader_ends_as_cancelled(open_store: OpenStore) -> None:
    """C19."""
    async with open_store() as store, asyncio.TaskGroup() as group:
        reading = group.create_task(first(1, store.backend.changes(await end(store.backend))))
        await settle()

        reading.cancel()
        await asyncio.wait([reading], timeout=SOON)

        assert reading.cancelled()


async def test_closing_ends_a_waiting_reader_and_refuses_the_rest(open_store: OpenStore) -> None:
    """C19."""
    async with open_store() as store:
        cursor = await end(store.backend)

        async def read() -> None:
            with pytest.raises(DatabrokerUnavailable, match="closed"):
                await first(1, store.backend.changes(cursor))

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            await settle()
            await store.backend.close()

        with pytest.raises(DatabrokerUnavailable):
            await store.backend.put([session("late")])
        with pytest.raises(DatabrokerUnavailable):
            await store.backend.latest()


# Clear


async def test_clear_forgets_all_but_the_leases(open_store: OpenStore) -> None:
    """C27, D-14, D-19."""
    async with open_store() as store:
        await store.backend.put([session("ada")])
        await store.backend.set_checkpoint(Cursor(1, 2))
        assert await store.backend.checkpoint() == Cursor(1, 2)
        assert await store.backend.lease("job", "holder", TTL)
        before = (await store.backend.server_info()).server_version

        old, new = await store.backend.clear()

        info = await store.backend.server_info()
        assert old == before != new == info.server_version != 0
        assert await current_ids(store.backend) == []
        assert await so_far(store.backend, await origin(store.backend)) == []
        assert await store.backend.checkpoint() == Cursor(0, 0)
        assert not await store.backend.lease("job", "another", TTL)


async def test_clear_ends_readers_that_wait_and_readers_that_read(open_store: OpenStore) -> None:
    """C27."""
    async with open_store() as store:
        await store.backend.put([session("a"), session("b")])
        reading = store.backend.changes(await origin(store.backend))
        assert (await anext(reading)).id == "a"

        async def wait() -> None:
            with pytest.raises(CursorExpired):
                await first(1, store.backend.changes(await end(store.backend)))

        async with asyncio.TaskGroup() as group:
            group.create_task(wait())
            await settle()
            await store.backend.clear()

        with pytest.raises(CursorExpired):
            await first(EVERYTHING, reading)  # one that was under way already may still come


# Patch


async def test_patching_what_is_not_there_changes_nothing(open_store: OpenStore) -> None:
    """C9."""
    async with open_store() as store:
        assert (await store.backend.patch([session("ada")], ["user_id"])).records == ()
        assert await so_far(store.backend, await origin(store.backend)) == []


async def test_patch_copies_the_named_fields_and_keeps_the_others(open_store: OpenStore) -> None:
    """C10."""
    async with open_store() as store:
        before = (await store.backend.put([session("a", "ua", access_token="old"), session("c", "uc")])).records

        patches = [session(id, "ignored", access_token="new") for id in ("c", "b", "a")]
        patched = (await store.backend.patch(patches, ["oauth_token"])).records

        assert [record.id for record in patched] == ["c", "a"]
        assert patched[0].data == session("c", "uc", access_token="new").data
        assert patched[1].data == session("a", "ua", access_token="new").data
        assert min(record.version for record in patched) > before[-1].version
        assert await store.backend.get(SESSION, "a") == patched[1]
        assert [change.id for change in await so_far(store.backend, await origin(store.backend))][2:] == ["c", "a"]


async def test_a_masked_field_that_the_patch_does_not_set_is_cleared(open_store: OpenStore) -> None:
    """D-16."""
    async with open_store() as store:
        await store.backend.put([session("a", "ua", subject="s", access_token="t", refresh="r")])

        await store.backend.patch([session("a")], ["user_id", "id_token", "oauth_token.access_token"])

        assert (await store.backend.get(SESSION, "a")).data == session("a", refresh="r").data


async def test_concurrent_patches_of_different_fields_all_survive(open_store: OpenStore) -> None:
    """C11: a hundred rounds."""
    async with open_store() as store:
        await store.backend.put([session("a")])
        for number in range(100):
            access, refresh = f"access-{number}", f"refresh-{number}"
            async with asyncio.TaskGroup() as group:
                group.create_task(
                    store.backend.patch([session("a", access_token=access)], ["oauth_token.access_token"])
                )
                group.create_task(store.backend.patch([session("a", refresh=refresh)], ["oauth_token.refresh_token"]))

            token = session_in(await store.backend.get(SESSION, "a")).oauth_token
            assert (token.access_token, token.refresh_token) == (access, refresh)


@pytest.mark.parametrize(
    "mask", ["no_such_field", "oauth_token.no_such_field", "user_id.deeper", "audience.x", "claims.x", ""]
)
async def test_a_mask_that_leads_nowhere_is_refused_and_changes_nothing(open_store: OpenStore, mask: str) -> None:
    """D-16: not even the records before the bad one."""
    async with open_store() as store:
        await store.backend.put([session("a", "ua")])
        cursor = await end(store.backend)

        with pytest.raises(InvalidRequest, match="field mask"):
            await store.backend.patch([session("a", "changed")], ["user_id", mask])

        assert await so_far(store.backend, cursor) == []


async def test_a_patch_with_data_of_another_type_is_refused(open_store: OpenStore) -> None:
    async with open_store() as store:
        await store.backend.put([session("a"), struct(DIRECTORY_USER, "a")])

        for data in (user("a").data, Payload(), None):
            with pytest.raises(InvalidRequest, match="patch"):
                await store.backend.patch([Record(type=SESSION, id="a", data=data)], ["id"])


# Leases


async def test_a_lease_has_one_holder_until_it_expires(open_store: OpenStore) -> None:
    """C5, D-20."""
    async with open_store() as store:
        assert await store.backend.lease("job", "ada", TTL)
        assert not await store.backend.lease("job", "grace", TTL)
        assert await store.backend.lease("another job", "grace", TTL)

        store.clock.jump(29)
        assert await store.backend.lease("job", "ada", TTL)  # renewed: thirty seconds from now
        store.clock.jump(30)
        assert not await store.backend.lease("job", "grace", TTL)

        store.clock.jump(0.001)
        assert await store.backend.lease("job", "grace", TTL)
        assert not await store.backend.lease("job", "ada", TTL)


async def test_an_expired_lease_that_nobody_took_can_be_renewed(open_store: OpenStore) -> None:
    """D-20."""
    async with open_store() as store:
        assert await store.backend.lease("job", "ada", TTL)
        store.clock.jump(HOUR)
        await store.backend.clean_up()

        assert await store.backend.lease("job", "ada", TTL)
        assert not await store.backend.lease("job", "grace", TTL)


async def test_only_the_holder_can_give_a_lease_back(open_store: OpenStore) -> None:
    """D-20."""
    async with open_store() as store:
        assert await store.backend.lease("job", "ada", TTL)

        await store.backend.release("job", "grace")
        await store.backend.release("no such job", "grace")
        assert not await store.backend.lease("job", "grace", TTL)

        await store.backend.release("job", "ada")
        assert await store.backend.lease("job", "grace", TTL)
