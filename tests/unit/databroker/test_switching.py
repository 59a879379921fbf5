"""Changing the store while all goes on (Z-25): what survives, who notices, and what happens when it fails."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from pomerium_agent.config import open_config
from pomerium_agent.databroker import (
    Backend,
    Databroker,
    MemoryBackend,
    Options,
    Reset,
    Store,
    follow,
    hold_lease,
    open_databroker,
)
from pomerium_agent.databroker.bundle_entry import BUNDLE_LEASE, CACHE_ENTRY_TYPE, CacheEntry, entry_to_record
from pomerium_agent.databroker.carry import Carrier
from pomerium_agent.databroker.sqlite import open_sqlite
from pomerium_agent.databroker.sqlite.place import FILE
from pomerium_agent.errors import CursorExpired, DatabrokerUnavailable, SettingsError
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Cursor, Record, pack
from pomerium_agent.runtime.health import Check, Health, Status
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.rerun import rerun_on_change
from pomerium_agent.sessions.live import open_sessions
from tests.contract.stores import SESSION, current_ids, first, gone, session, so_far, struct, user
from tests.fakes.clock import ManualClock, settle

TTL = timedelta(seconds=30)
CONFIG = "type.googleapis.com/pomerium.config.Config"


@dataclass(frozen=True, slots=True)
class House:
    databroker: Databroker
    storage: Latest[str | None]
    clock: ManualClock
    health: Health

    async def change(self, connection: str | None) -> None:
        """Ask for another store, and return once it has taken over."""
        before = self.databroker.store
        self.storage.set(connection)
        async with asyncio.timeout(10):
            async for _ in self.databroker.stores.follow():
                if self.databroker.store is not before:
                    return

    async def until_failing(self, text: str) -> None:
        async with asyncio.timeout(10):
            async for report in self.health.follow():
                if report.check == Check.STORAGE and text in report.error:
                    return

    async def until_well(self) -> None:
        async with asyncio.timeout(10):
            async for report in self.health.follow():
                if report.check == Check.STORAGE and report.healthy:
                    return


@asynccontextmanager
async def house(connection: str | None = None) -> AsyncIterator[House]:
    storage, clock, health = Latest(connection), ManualClock(), Health()
    async with open_databroker(storage, clock, health) as databroker:
        yield House(databroker, storage, clock, health)


def bundle(name: str, *types: str) -> Record:
    return entry_to_record(name, CacheEntry(etag=f'"{name}"', record_types=types))


async def test_sessions_and_configuration_survive_a_change_of_the_store(tmp_path: Path) -> None:
    """From memory to a file, to another file, and back to memory."""
    async with house() as at:
        await at.databroker.put([session("ada", "u1"), user("u1"), struct(CONFIG, "c"), bundle("config", CONFIG)])
        await at.databroker.put([session("gone"), gone(SESSION, "gone")])
        await at.databroker.set_options("a", Options(ttl=timedelta(hours=1)))
        await at.databroker.put([struct("a", "1")])
        data = {(r.type, r.id): r.data for r in (await at.databroker.latest())[1]}
        identities = {(await at.databroker.server_info()).server_version}

        for connection in (f"file://{tmp_path}/one", f"file://{tmp_path}/two", None):
            await at.change(connection)

            assert {(r.type, r.id): r.data for r in (await at.databroker.latest())[1]} == data
            assert await at.databroker.get_options("a") == Options(ttl=timedelta(hours=1))
            identities.add((await at.databroker.server_info()).server_version)
            await at.until_well()

        assert len(identities) == 4

    backend = await open_sqlite(f"file://{tmp_path}/two", ManualClock())  # let go of, and complete
    assert {(r.type, r.id): r.data for r in (await backend.latest())[1]} == data
    await backend.close()


async def test_who_follows_the_changes_starts_over_in_the_new_store_and_misses_nothing(tmp_path: Path) -> None:
    """D-37, D-40."""
    async with house() as at:
        await at.databroker.put([session("ada")])
        async with aclosing(follow(at.databroker, SESSION)) as changes:
            copy = await anext(changes)
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                waiting = group.create_task(anext(changes))
                await settle()
                await at.change(f"file://{tmp_path}/store")

            again = waiting.result()
            assert isinstance(copy, Reset)
            assert isinstance(again, Reset)
            assert [record.id for record in again.records] == ["ada"]
            assert again.cursor.server_version != copy.cursor.server_version
            await at.databroker.put([session("grace")])
            assert (await anext(changes)).cursor.server_version == again.cursor.server_version


async def test_no_write_is_lost_while_the_store_is_changed_again_and_again(tmp_path: Path) -> None:
    """Each of many writers gets its confirmation, and what was confirmed is there at the end."""
    async with house() as at:
        stop = asyncio.Event()
        written: dict[str, bytes] = {}
        removed: set[str] = set()

        async def write(name: str) -> None:
            number = 0
            while not stop.is_set():
                number += 1
                id = f"{name}-{number % 50}"
                record = session(id, f"user-{number}")
                await at.databroker.put([record])
                assert record.data is not None
                written[id] = record.data.value
                removed.discard(id)
                if number % 7 == 0:
                    await at.databroker.put([gone(SESSION, id)])
                    removed.add(id)
                await asyncio.sleep(0.001)

        async with asyncio.TaskGroup() as group:
            for name in "abc":
                group.create_task(write(name))
            for connection in (f"file://{tmp_path}/1", None, f"file://{tmp_path}/2", f"file://{tmp_path}/1", None):
                await asyncio.sleep(0.05)
                await at.change(connection)
            stop.set()

        found = {r.id: r.data.value for r in (await at.databroker.latest(SESSION))[1] if r.data is not None}
        assert found == {id: data for id, data in written.items() if id not in removed}
        assert len(found) > 20


async def test_a_store_that_cannot_be_opened_leaves_the_old_one_in_place(tmp_path: Path) -> None:
    """With a health failure that says so; and when it can be opened, it takes over."""
    (tmp_path / FILE).write_bytes(b"not a database" * 100)
    async with house() as at:
        await at.databroker.put([session("ada")])
        before = at.databroker.store

        at.storage.set(f"file://{tmp_path}")
        await at.until_failing("records stay in memory storage")
        await at.databroker.put([session("grace")])
        assert at.databroker.store is before
        assert "damaged" in at.health.reports[Check.STORAGE].error

        (tmp_path / FILE).unlink()
        await at.clock.advance(120)
        await at.until_well()
        assert at.databroker.store is not before
        assert await current_ids(at.databroker) == ["ada", "grace"]


async def test_a_change_that_is_taken_back_leaves_all_as_it_was(tmp_path: Path) -> None:
    async with house() as at:
        before = at.databroker.store
        owner = await open_sqlite(f"file://{tmp_path}/store", ManualClock())
        at.storage.set(f"file://{tmp_path}/store")
        await at.until_failing("belongs to another agent")

        at.storage.set(None)
        await at.until_well()

        assert at.databroker.store is before
        await owner.close()


async def test_another_way_to_write_the_same_directory_changes_nothing(tmp_path: Path) -> None:
    async with house(f"file://{tmp_path}/store") as at:
        before = at.databroker.store
        at.storage.set(f"file://{tmp_path}/store/")
        await settle(100)

        assert at.databroker.store is before
        assert at.health.reports[Check.STORAGE].healthy


async def test_at_the_start_a_store_out_of_reach_is_waited_for(tmp_path: Path) -> None:
    """Or another one is asked for meanwhile."""
    owner = await open_sqlite(f"file://{tmp_path}/store", ManualClock())
    storage: Latest[str | None] = Latest(f"file://{tmp_path}/store")
    clock, health = ManualClock(), Health()
    opened: list[Databroker] = []

    async def run() -> None:
        async with open_databroker(storage, clock, health) as databroker:
            opened.append(databroker)
            await asyncio.Event().wait()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(run())
        await clock.until_sleeping()
        assert "belongs to another agent" in health.reports[Check.STORAGE].error
        storage.set(None)
        await clock.advance(20)
        assert opened
        assert health.reports[Check.STORAGE].healthy
        task.cancel()
    assert health.reports[Check.STORAGE].status is Status.TERMINATING
    await owner.close()


async def test_at_the_start_a_store_that_cannot_work_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database" * 100)
    with pytest.raises(SettingsError, match="damaged"):
        async with house(f"file://{tmp_path}"):
            pytest.fail("it opened")


async def test_what_was_changed_later_in_the_new_store_stays(tmp_path: Path) -> None:
    """Never older over newer; and who signed out here does not come back from there."""
    clock = ManualClock()
    there = await open_sqlite(f"file://{tmp_path}/store", clock)
    await there.put([session("signed-out"), session("renewed-here", "old"), struct("kept", "theirs")])
    here = MemoryBackend(clock)
    await here.put([session("renewed-there", "old")])
    clock.jump(60)
    await here.put(
        [session("signed-out"), gone(SESSION, "signed-out"), session("renewed-here", "new"), session("ours")]
    )
    clock.jump(60)
    await there.put([session("renewed-there", "new"), session("ours-and-deleted-there")])

    await Carrier(here, there, clock).copy()

    found = {record.id: record.data for record in (await there.latest(SESSION))[1]}
    assert found.keys() == {"renewed-here", "renewed-there", "ours", "ours-and-deleted-there"}
    assert found["renewed-here"] == session("renewed-here", "new").data
    assert found["renewed-there"] == session("renewed-there", "new").data
    assert await current_ids(there, "kept") == ["theirs"]
    await there.close()


async def test_a_data_set_that_has_a_bundle_keeps_its_configuration_as_a_whole(tmp_path: Path) -> None:
    """Z-40: an entry over records that it does not describe would hide every later change."""
    clock = ManualClock()
    there, here = MemoryBackend(clock), MemoryBackend(clock)
    await there.put([struct(CONFIG, "theirs"), bundle("config", CONFIG)])
    clock.jump(60)
    await here.put([struct(CONFIG, "ours"), bundle("config", CONFIG, "other"), struct("other", "x"), session("ada")])

    carrier = Carrier(here, there, clock)
    await carrier.copy()
    await here.put([struct(CONFIG, "later")])
    await carrier.catch_up()

    assert await current_ids(there, CONFIG) == ["theirs"]
    assert await current_ids(there, "other") == []
    assert await current_ids(there, SESSION) == ["ada"]


async def test_a_data_set_without_a_bundle_gets_exactly_ours_entry_last() -> None:
    """Z-38, Z-40: what an earlier life left behind goes."""
    clock = ManualClock()
    there, here = MemoryBackend(clock), MemoryBackend(clock)
    await there.put([struct(CONFIG, "left behind"), struct(CONFIG, "c", {"old": True})])
    await here.put([struct(CONFIG, "c"), bundle("config", CONFIG)])

    await Carrier(here, there, clock).copy()

    assert await current_ids(there, CONFIG) == ["c"]
    assert (await there.get(CONFIG, "c")).data == struct(CONFIG, "c").data
    changes = await so_far(there, Cursor((await there.server_info()).server_version, 0))
    assert changes[-1].type == CACHE_ENTRY_TYPE
    assert await there.lease(BUNDLE_LEASE, "whoever", TTL)


async def test_while_another_replica_brings_the_configuration_in_it_is_waited_for() -> None:
    """Z-30: two would mix their records."""
    clock = ManualClock()
    there, here = MemoryBackend(clock), MemoryBackend(clock)
    await here.put([struct(CONFIG, "ours"), bundle("config", CONFIG), session("ada")])
    assert await there.lease(BUNDLE_LEASE, "another replica", TTL)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        copying = group.create_task(Carrier(here, there, clock).copy())
        await clock.advance(10)
        assert not copying.done()
        assert await current_ids(there) == []
        await there.put([struct(CONFIG, "theirs"), bundle("config", CONFIG)])
        await clock.advance(2)

    assert await current_ids(there, CONFIG) == ["theirs"]
    assert await current_ids(there, SESSION) == ["ada"]


async def test_an_old_store_that_is_gone_for_good_is_left_behind(tmp_path: Path) -> None:
    """Not at once, since it may come back; but the agent does not depend on it for ever."""
    async with house() as at:
        await at.databroker.put([session("lost")])
        before = at.databroker.store
        await before.close()  # nothing can be read from it any more

        at.storage.set(f"file://{tmp_path}/store")
        await at.until_failing("the old storage cannot be read")
        assert at.databroker.store is before

        await until(lambda: at.databroker.store is not before, at.clock)
        await at.until_well()
        assert at.clock.monotonic() > 1000 + 60
        await at.databroker.put([session("new")])
        assert await current_ids(at.databroker) == ["new"]


async def test_a_write_that_never_ends_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """The change is given up, and the writers that waited go on in the old store."""
    clock = ManualClock()
    store = Store(Stuck(clock))
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        stuck = group.create_task(store.set_checkpoint(Cursor(1, 1)))
        await settle()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), store.held():
                pytest.fail("nothing may be written now")
        await store.put([session("ada")])
        stuck.cancel()


class Stuck(MemoryBackend):
    """A store in which one kind of write hangs."""

    async def set_checkpoint(self, checkpoint: Cursor) -> None:
        await asyncio.Event().wait()


async def test_who_works_in_one_store_alone_is_refused_once_another_took_over() -> None:
    """Z-29: a lease counts where it was taken."""
    clock = ManualClock()
    one, two = Store(MemoryBackend(clock)), Store(MemoryBackend(clock))
    databroker = Databroker(one)
    pinned = databroker.stores.value
    assert await pinned.lease("job", "ada", TTL)

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        waiting = group.create_task(_refused(pinned, (await pinned.server_info()).cursor))
        await settle()
        databroker.replace(two)
        await waiting

    for call in (
        pinned.put([session("a")]),
        pinned.lease("job", "ada", TTL),
        pinned.get(SESSION, "a"),
        pinned.latest(),
    ):
        with pytest.raises(DatabrokerUnavailable, match="moved"):
            await call
    await pinned.release("job", "ada")
    assert await databroker.lease("job", "another", TTL)
    with pytest.raises(CursorExpired):
        await so_far(databroker, (await one._backend.server_info()).cursor)


async def _refused(backend: object, cursor: Cursor) -> None:
    assert isinstance(backend, Store)
    with pytest.raises(DatabrokerUnavailable, match="moved"):
        await first(1, backend.changes(cursor))


async def test_a_leased_job_ends_gives_its_lease_back_and_begins_anew_in_the_new_store(tmp_path: Path) -> None:
    """Z-25, Z-29: and never runs without the lease of the store it works in."""
    async with house(f"file://{tmp_path}/store") as at:
        worked_in: list[object] = []

        async def under(store: Backend) -> None:
            async def job() -> None:
                worked_in.append(store)
                await asyncio.Event().wait()

            await hold_lease(store, "job", TTL, job, at.clock)

        async with asyncio.TaskGroup() as group:
            task = group.create_task(rerun_on_change(at.databroker.stores, under))
            await until(lambda: len(worked_in) == 1)
            before = at.databroker.store
            await at.change(None)
            await until(lambda: len(worked_in) == 2)
            assert worked_in == [before, at.databroker.store]
            assert not await at.databroker.lease("job", "another", TTL)
            await at.until_well()
            task.cancel()

    backend = await open_sqlite(f"file://{tmp_path}/store", ManualClock())
    assert await backend.lease("job", "another", TTL)  # given back before the file was closed
    await backend.close()


async def test_a_write_that_waits_while_writes_are_held_goes_to_the_store_that_took_over() -> None:
    clock = ManualClock()
    one, two = MemoryBackend(clock), MemoryBackend(clock)
    databroker = Databroker(Store(one))
    async with asyncio.timeout(10), asyncio.TaskGroup() as group, databroker.store.held():
        writing = group.create_task(databroker.put([session("ada")]))
        await settle()
        assert not writing.done()
        assert await current_ids(databroker) == []  # reading goes on
        databroker.replace(Store(two))

    assert await current_ids(one) == []
    assert await current_ids(two) == ["ada"]


async def test_the_views_of_sessions_and_configuration_follow_into_the_new_store(tmp_path: Path) -> None:
    """Nobody is a stranger and no route is gone, not for a moment: the views change from whole to whole."""
    async with (
        house() as at,
        open_sessions(at.databroker, at.clock, at.health) as sessions,
        open_config(at.databroker, clock=at.clock, health=at.health, read_file=None) as config,
    ):
        message = config_pb2.Config(name="c")
        setattr(message.routes.add(to=["http://127.0.0.1:1"]), "from", "https://a.test")
        await at.databroker.put([Record(type=CONFIG, id="c", data=pack(message)), bundle("config", CONFIG)])
        await at.databroker.put([session("ada", "u1")])
        seen: list[tuple[bool, int]] = []

        async def look() -> None:
            while True:
                routes = config.value.snapshot.routes if config.value else ()
                seen.append((sessions.session("ada") is not None, len(routes)))
                await asyncio.sleep(0)

        await at.clock.advance(1)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            async for compiled in config.follow():
                if compiled is not None and compiled.snapshot.routes:
                    break
            looking = group.create_task(look())
            await at.change(f"file://{tmp_path}/store")
            await at.databroker.put([session("grace", "u2")])
            await until(lambda: sessions.session("grace") is not None)
            await at.clock.advance(5)
            looking.cancel()

        assert set(seen) == {(True, 1)}


async def until(true: Callable[[], bool], clock: ManualClock | None = None) -> None:
    """Return once it is; half a minute passes on the clock between two looks, if there is one."""
    for _ in range(2000):
        if true():
            return
        if clock is not None:
            await clock.advance(30)
        await asyncio.sleep(0.01)
    raise AssertionError("it never came true")
