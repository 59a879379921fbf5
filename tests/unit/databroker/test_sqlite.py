"""A store in one SQLite file: what outlives the process, who may read it, and what is refused (databroker 12)."""

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from pomerium_agent.databroker import Options
from pomerium_agent.databroker.sqlite import SqliteBackend, open_sqlite
from pomerium_agent.databroker.sqlite.place import FILE, LOCK, directory_of
from pomerium_agent.databroker.sqlite.schema import MIGRATIONS, connect
from pomerium_agent.databroker.sqlite.tail import Tail
from pomerium_agent.errors import CursorExpired, DatabrokerUnavailable, InvalidRequest, RecordNotFound, SettingsError
from pomerium_agent.records import Cursor, Payload, Record
from tests.contract.stores import current_ids, first, gone, session, so_far, struct
from tests.fakes.clock import ManualClock, settle

TTL = timedelta(seconds=30)

# A process of its own: it prints each version once it was confirmed, until it is killed.
WRITER = """
import asyncio, sys
from pomerium_agent.databroker.sqlite import open_sqlite
from pomerium_agent.records import Payload, Record
from pomerium_agent.runtime.clock import SystemClock

async def main():
    backend = await open_sqlite(sys.argv[1], SystemClock())
    async def write(name):
        number = 0
        while True:
            number += 1
            written = await backend.put([Record(type="a", id=f"{name}-{number}", data=Payload("x", b"y" * 2000))])
            print(written.records[0].id, flush=True)
    await asyncio.gather(*(write(name) for name in "pqr"))

asyncio.run(main())
"""


async def opened(directory: Path, clock: ManualClock | None = None) -> SqliteBackend:
    return await open_sqlite(f"file://{directory}", clock or ManualClock())


async def test_what_was_confirmed_is_there_after_a_restart(tmp_path: Path) -> None:
    """D-14: records, log, options, checkpoint and the identity of the data set."""
    backend = await opened(tmp_path / "store")
    await backend.put([session("ada", "u1"), session("grace"), struct("net", "n", {"$index": {"cidr": "10.0.0.0/8"}})])
    await backend.put([gone(session("grace").type, "grace")])
    await backend.set_options("a", Options(capacity=2**63 + 5, indexable_fields=("x",), ttl=timedelta(days=2)))
    await backend.set_checkpoint(Cursor(2**64 - 1, 2**64 - 2))
    before = await backend.server_info()
    changes = await so_far(backend, Cursor(before.server_version, 0))
    await backend.close()

    backend = await opened(tmp_path / "store")
    assert await backend.server_info() == before
    assert await so_far(backend, Cursor(before.server_version, 0)) == changes
    assert await current_ids(backend) == ["n", "ada"]
    assert (await backend.get_options("a")) == Options(
        capacity=2**63 + 5, indexable_fields=("x",), ttl=timedelta(days=2)
    )
    assert await backend.checkpoint() == Cursor(2**64 - 1, 2**64 - 2)
    (record,) = (await backend.query("", filter={"$index": "10.1.1.1"}, limit=5)).records
    assert record.id == "n"
    assert (await backend.put([session("new")])).records[0].version == before.latest_record_version + 1
    await backend.close()


async def test_what_a_killed_process_was_told_is_done_is_there(tmp_path: Path) -> None:
    """Three writers at once share commits; none of what they heard about is missing."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, f"file://{tmp_path}/store", stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    confirmed = [(await process.stdout.readline()).decode().strip() for _ in range(60)]
    process.send_signal(signal.SIGKILL)
    confirmed += (await process.stdout.read()).decode().split("\n")[:-1]
    await process.wait()

    backend = await opened(tmp_path / "store")
    assert len(confirmed) >= 60
    assert set(confirmed) <= set(await current_ids(backend))
    await backend.close()


def test_a_commit_is_on_the_disk_before_it_is_confirmed(tmp_path: Path) -> None:
    """Of what a power cut leaves only this can be tested: the log is synced with every commit, not now and then."""
    (tmp_path / FILE).touch()
    connection = connect(tmp_path / FILE)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    connection.close()


async def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    """0700 and 0600, whatever the umask, and also the log beside it."""
    before = os.umask(0)
    try:
        backend = await opened(tmp_path / "new" / "store")
        await backend.put([session("ada")])
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "new" / "store").stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new" / "store").iterdir()}
    assert modes == dict.fromkeys((FILE, f"{FILE}-wal", f"{FILE}-shm", LOCK), 0o600)
    await backend.close()


async def test_a_place_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)  # noqa: PTH101
    with pytest.raises(SettingsError, match="chmod"):
        await opened(tmp_path)
    assert not (tmp_path / FILE).exists()


async def test_a_store_has_one_owner(tmp_path: Path) -> None:
    """The second is told who the first is, and gets its turn when that one is gone."""
    backend = await opened(tmp_path / "store")
    with pytest.raises(DatabrokerUnavailable, match=f"another agent that runs .process {os.getpid()}"):
        await opened(tmp_path / "store")
    await backend.close()

    second = await opened(tmp_path / "store")
    await second.close()


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as other:
        other.execute("CREATE TABLE precious (x)")
    other.close()
    before = (tmp_path / FILE).read_bytes()

    with pytest.raises(SettingsError, match="another program"):
        await opened(tmp_path)

    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize("content", [b"x", b"not a database\n" * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_what_is_no_database_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)

    with pytest.raises(SettingsError, match="damaged"):
        await opened(tmp_path)

    assert (tmp_path / FILE).read_bytes() == content


async def test_a_damaged_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    backend = await opened(tmp_path)
    await backend.put([struct("a", str(number), {"x": "y" * 500}) for number in range(200)])
    await backend.close()
    content = bytearray((tmp_path / FILE).read_bytes())
    content[8192:20480] = os.urandom(12288)
    (tmp_path / FILE).write_bytes(content)

    with pytest.raises(SettingsError, match="damaged"):
        await opened(tmp_path)

    assert (tmp_path / FILE).read_bytes() == content


async def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    backend = await opened(tmp_path)
    await backend.close()
    with sqlite3.connect(tmp_path / FILE) as newer:
        newer.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    newer.close()

    with pytest.raises(SettingsError, match="newer version"):
        await opened(tmp_path)


async def test_a_full_disk_is_said_in_plain_words_and_passes(tmp_path: Path) -> None:
    """Nothing confirmed is lost, nothing refused is half there, reading goes on, and writing when there is room."""
    backend = await opened(tmp_path / "store")
    kept = (await backend.put([struct("a", "kept")])).records[0]
    cursor = (await backend.server_info()).cursor
    await limit_pages(backend, 1)
    with pytest.raises(DatabrokerUnavailable, match="disk is full"):
        await backend.put([struct("a", "small"), struct("a", "large", {"x": "y" * 1_000_000})])
    assert await backend.get("a", "kept") == kept
    assert await so_far(backend, cursor) == []

    await limit_pages(backend, 1_000_000)
    written = await backend.put([struct("a", "small")])
    assert written.records[0].version == kept.version + 1
    assert [change.id for change in await so_far(backend, cursor)] == ["small"]
    await backend.close()
    backend = await opened(tmp_path / "store")
    assert await current_ids(backend) == ["kept", "small"]
    await backend.close()


async def limit_pages(backend: SqliteBackend, pages: int) -> None:
    """SQLite itself then finds no room, as on a disk that is full."""
    await backend._writer.run(
        lambda transaction: transaction._db.execute(f"PRAGMA max_page_count = {pages}").fetchone()
    )


async def test_one_bad_write_among_many_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    """They share a commit, and nothing else."""
    backend = await opened(tmp_path)

    async def bad() -> None:
        with pytest.raises(InvalidRequest):
            await backend.put([struct("a", "half"), Record(type="a", id="\ud800")])

    async with asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(backend.put([struct("a", f"{number:02}")]))
            group.create_task(bad())

    assert await current_ids(backend) == [f"{number:02}" for number in range(20)]
    versions = [record.version for record in (await backend.latest())[1]]
    assert sorted(versions) == list(range(1, 21))
    await backend.close()


async def test_a_writer_that_gives_up_waiting_leaves_a_whole_write_or_none(tmp_path: Path) -> None:
    backend = await opened(tmp_path)
    reading = backend.changes((await backend.server_info()).cursor)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(backend.put([struct("a", "1"), struct("a", "2")]))
        await asyncio.sleep(0)
        task.cancel()

    await backend.put([struct("a", "3")])
    assert [change.id for change in await first(3, reading)] == ["1", "2", "3"]
    await backend.close()


async def test_who_reads_from_long_ago_is_led_from_the_disk_to_the_present(tmp_path: Path) -> None:
    """D-13: past what is remembered of the log, a page at a time, while others write."""
    backend = await opened(tmp_path)
    start = (await backend.server_info()).cursor
    await backend.put([struct("a" if number % 3 else "b", str(number)) for number in range(5000)])
    await backend.close()
    backend = await opened(tmp_path)

    async with asyncio.TaskGroup() as group:
        all = group.create_task(first(5100, backend.changes(start)))
        some = group.create_task(first(1667, backend.changes(start, "b")))
        for number in range(5000, 5100):
            await backend.put([struct("c", str(number))])

    assert [change.id for change in all.result()] == [str(number) for number in range(5100)]
    assert {change.type for change in some.result()} == {"b"}
    await backend.close()


async def test_a_lease_outlives_a_restart_and_ends_by_a_clock_that_nobody_sets(tmp_path: Path) -> None:
    """D-20: too long rather than too short, since another process may still do the job."""
    backend = await opened(tmp_path)
    assert await backend.lease("job", "ada", TTL)
    assert await backend.lease("other", "ada", TTL)
    await backend.release("other", "ada")
    await backend.close()

    clock = ManualClock()
    backend = await opened(tmp_path, clock)
    assert await backend.lease("other", "grace", TTL)
    assert not await backend.lease("job", "grace", TTL)
    clock.jump(30)
    assert not await backend.lease("job", "grace", TTL)
    clock.jump(1)
    assert await backend.lease("job", "grace", TTL)
    await backend.close()


async def test_renewing_a_lease_writes_nothing(tmp_path: Path) -> None:
    backend = await opened(tmp_path)
    assert await backend.lease("job", "ada", TTL)
    before = (tmp_path / f"{FILE}-wal").stat().st_size
    for _ in range(50):
        assert await backend.lease("job", "ada", TTL)
    assert (tmp_path / f"{FILE}-wal").stat().st_size == before
    await backend.close()


async def test_a_reader_of_another_life_of_the_store_starts_over_after_a_clear(tmp_path: Path) -> None:
    """D-19, D-40."""
    backend = await opened(tmp_path)
    await backend.put([session("a")])
    cursor = (await backend.server_info()).cursor
    await backend.clear()
    await backend.close()

    backend = await opened(tmp_path)
    with pytest.raises(CursorExpired, match="server version"):
        await so_far(backend, cursor)
    with pytest.raises(RecordNotFound):
        await backend.get(session("a").type, "a")
    await backend.close()


async def test_opening_that_is_cancelled_lets_go_of_the_file(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(opened(tmp_path))
        await asyncio.sleep(0)
        task.cancel()
    async with asyncio.timeout(5):
        while True:
            try:
                backend = await opened(tmp_path)
                break
            except DatabrokerUnavailable:
                await settle()
    await backend.close()


async def test_a_file_moved_away_under_our_feet_is_an_error_and_no_crash(tmp_path: Path) -> None:
    backend = await opened(tmp_path)
    await backend.put([Record(type="a", id="1", data=Payload("x", b"y"))])
    with sqlite3.connect(tmp_path / FILE) as other:
        other.execute("DROP TABLE record")
    other.close()
    with pytest.raises(DatabrokerUnavailable, match="record"):
        await backend.get("a", "1")
    with pytest.raises(DatabrokerUnavailable, match="record"):
        await backend.put([Record(type="a", id="1")])
    await backend.close()


async def test_a_large_clean_up_goes_in_pieces_and_to_the_end(tmp_path: Path) -> None:
    """D-17: others write between the pieces."""
    clock = ManualClock()
    backend = await opened(tmp_path, clock)
    await backend.set_options("a", Options(ttl=timedelta(hours=1)))
    await backend.put([struct("a", f"{number:05}") for number in range(4500)])
    clock.jump(7200)
    async with asyncio.TaskGroup() as group:
        group.create_task(backend.clean_up())
        for number in range(20):
            group.create_task(backend.put([struct("b", str(number))]))

    assert await backend.list_types() == ("b",)
    info = await backend.server_info()
    assert info.latest_record_version == 4500 + 20 + 4500
    assert 4500 <= info.earliest_record_version <= 4520
    clock.jump(7200)
    await backend.clean_up()
    assert (await backend.server_info()).earliest_record_version == info.latest_record_version
    await backend.close()


async def test_no_statement_looks_at_more_than_it_needs(tmp_path: Path) -> None:
    """The cost is the work asked for, not the size of the tables: SQLite's own plans say so, of every statement."""
    backend = await opened(tmp_path)
    seen: set[str] = set()
    for run in (backend._writer._connection, backend._reader._connection):
        run.set_trace_callback(seen.add)
    start = (await backend.server_info()).cursor
    await backend.set_options("a", Options(capacity=4, indexable_fields=("value.x",), ttl=timedelta(hours=1)))
    await backend.put([struct("a", str(n), {"x": "y", "$index": {"cidr": "10.0.0.0/8"}}) for n in range(6)])
    await backend.put([gone("a", "4"), struct("b", "1")])
    for type in ("", "a"):
        await backend.latest(type)
        await so_far(backend, Cursor(start.server_version, 0), type)
        for filter in ({"id": "5"}, {"value": {"x": "y"}}, {"$index": "10.1.2.3"}, {"type": "a"}):
            await backend.query(type, filter=filter, limit=10)
    await backend.clean_up()
    await backend.list_types()
    await backend.lease("job", "ada", TTL)
    await backend.close()

    database = sqlite3.connect(tmp_path / FILE)
    plans = {
        statement: [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}")]
        for statement in seen
        if statement.startswith(("SELECT", "UPDATE", "DELETE"))
    }
    database.close()
    small = ("SCAN option", "SCAN kind", "SCAN CONSTANT ROW")
    for statement, plan in plans.items():
        for step in plan:
            assert not step.startswith("SCAN") or step.startswith(small), statement
            assert "TEMP B-TREE" not in step, statement
        if "AND id >" in statement:
            assert plan == ["SEARCH record USING INDEX sqlite_autoindex_record_1 (type=? AND id>?)"]
    assert len(plans) > 25


@pytest.mark.parametrize(
    ("connection", "environ", "directory"),
    [
        ("file:///srv/records", {}, "/srv/records"),
        ("file:///srv/with%20space", {}, "/srv/with space"),
        ("file://", {"STATE_DIRECTORY": "/var/lib/agent:/other"}, "/var/lib/agent/databroker"),
        ("file://", {"XDG_DATA_HOME": "/data", "HOME": "/home/a"}, "/data/pomerium/databroker"),
        ("file://", {"HOME": "/home/a"}, "/home/a/.local/share/pomerium/databroker"),
        ("file://", {}, "/var/tmp/pomerium/data/databroker"),
    ],
)
def test_the_connection_names_a_directory(connection: str, environ: dict[str, str], directory: str) -> None:
    """Databroker 12."""
    assert directory_of(connection, environ) == Path(directory)


@pytest.mark.parametrize("connection", ["file://srv/records", "file:///a?b", "file:///a#b", "file:///a%00b"])
def test_a_connection_that_is_no_path_is_refused(connection: str) -> None:
    with pytest.raises(SettingsError, match="file store"):
        directory_of(connection, {})


def test_the_tail_knows_what_it_has() -> None:
    tail = Tail(keep=3)
    tail.begin(10)
    assert (tail.reaches(9), tail.reaches(10), tail.next_after(10, "")) == (False, True, None)

    records = [Record(type="ab"[number % 2], id=str(number), version=number) for number in range(11, 31)]
    for record in records:
        tail.extend([record])
        assert tail.next_after(record.version - 1, "") == record
        assert tail.reaches(record.version - 3) == (record.version - 3 >= 10)
        assert tail.next_after(record.version, record.type) is None
    assert not tail.reaches(15)
