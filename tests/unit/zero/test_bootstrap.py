"""Who we are: from the file at once, from the API for ever, and back to the file."""

import asyncio
import base64
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pomerium_agent.databroker.kinds import storage_kind
from pomerium_agent.errors import ConfigRejected, Refused
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.zero.answers import BootstrapConfig
from pomerium_agent.zero.bootstrap import BootstrapLoop
from pomerium_agent.zero.bootstrap_file import BootstrapFile, open_sealed, seal_bootstrap
from pomerium_agent.zero.nudge import ConnectionState, Flag, Schedule
from pomerium_agent.zero.seal import seal
from pomerium_agent.zero.writeback import FileWriteback, Writeback
from tests.fakes.clock import ManualClock
from tests.fakes.control_plane import FakeControlPlane, html, say, serve_control_plane
from tests.unit.zero.wire import open_api

KEY = b"k" * 32
BOOTSTRAP = BootstrapConfig(cluster_id="c", organization_id="o", shared_secret=b"s" * 32, storage_connection=None)


class House:
    def __init__(self, plane: FakeControlPlane, loop: BootstrapLoop, clock: ManualClock, health: Health) -> None:
        self.plane, self.loop, self.clock, self.health = plane, loop, clock, health
        self.connection: Latest[ConnectionState]
        self.flag: Flag

    def connect(self, connected: bool) -> None:
        self.connection.set(ConnectionState(connected, self.connection.value.turn + 1))

    async def fetched(self, times: int) -> None:
        """Return once the bootstrap was fetched so often, and the loop waits again."""
        await self.plane.until(lambda: len(self.plane.requests("bootstrap")) >= times)
        await self.clock.until_sleeping()
        assert len(self.plane.requests("bootstrap")) == times


@asynccontextmanager
async def house(writeback: Writeback | None = None) -> AsyncIterator[House]:
    clock, health, flag, connection = ManualClock(), Health(), Flag(), Latest(ConnectionState())
    async with serve_control_plane() as plane, open_api(plane, clock=clock) as api:
        due = Schedule(connection, flag, clock=clock, gap=0.0)
        at = House(plane, BootstrapLoop(api, due, writeback, health=health, clock=clock), clock, health)
        at.connection, at.flag = connection, flag
        yield at


@asynccontextmanager
async def running(at: House) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(at.loop.run(Backoff(factor=2.0, jitter=0)))
        yield
        task.cancel()


async def test_it_is_fetched_at_start_on_connect_on_event_and_at_the_interval() -> None:
    """Z-21, Z-22."""
    async with house() as at, running(at):
        await at.fetched(1)
        at.connect(True)
        await at.fetched(2)
        at.flag.put_up()
        await at.fetched(3)
        await at.clock.advance(3599)
        await at.fetched(3)
        await at.clock.advance(1)
        await at.fetched(4)
        at.connect(False)
        await at.clock.advance(299)
        await at.fetched(4)
        await at.clock.advance(1)
        await at.fetched(5)


async def test_an_equal_bootstrap_is_no_change() -> None:
    """Z-24."""
    values: list[BootstrapConfig | None] = []
    async with house() as at, running(at):

        async def watch() -> None:
            async for value in at.loop.current.follow():
                values.append(value)

        watching = asyncio.create_task(watch())
        await at.fetched(1)
        at.flag.put_up()
        await at.fetched(2)
        at.plane.bootstrap["organizationId"] = "another"
        at.flag.put_up()
        await at.fetched(3)
        watching.cancel()

    assert [value.organization_id if value else None for value in values] in (
        [None, "organization", "another"],
        ["organization", "another"],
    )


async def test_a_failure_is_tried_again_with_growing_waits_and_a_nudge_tries_at_once() -> None:
    """Z-10, Z-65: zero link 3."""
    async with house() as at:
        at.plane.always("bootstrap", html())
        async with running(at):
            await at.fetched(1)
            await at.clock.advance(0.5)
            await at.fetched(2)
            await at.clock.advance(0.9)
            await at.fetched(2)

            at.flag.put_up()
            await at.fetched(3)
            at.plane.always("bootstrap", None)
            await at.clock.advance(0.5)
            await at.fetched(4)

        assert at.loop.current.value is not None


async def test_a_control_plane_that_asks_for_time_is_left_alone_for_so_long() -> None:
    """Z-10: unless it nudges us itself."""
    async with house() as at:
        at.plane.script("bootstrap", say({"error": "later"}, 429, Retry_After="30"))
        async with running(at):
            await at.fetched(1)
            await at.clock.advance(29)
            await at.fetched(1)
            await at.clock.advance(1)
            await at.fetched(2)


async def test_a_refusal_leaves() -> None:
    """Z-10: zero link 4.4."""
    async with house() as at:
        at.plane.script("bootstrap", say({"error": "token was rotated"}, 400))

        with pytest.raises(Refused, match="token was rotated"):
            await at.loop.run()


@pytest.mark.parametrize(
    ("connection", "kind"),
    [(None, "memory"), ("file:///var/lib/x", "file"), ("postgres://db/x", "postgres"), ("anything", "postgres")],
)
async def test_the_storage_connection_says_where_records_live(connection: str | None, kind: str) -> None:
    """Z-23."""
    async with house() as at, running(at):
        at.plane.bootstrap["databrokerStorageConnection"] = connection
        at.flag.put_up()
        await at.clock.until_sleeping()
        async for value in at.loop.current.follow():
            if value is not None and value.storage_connection == connection:
                break

    assert storage_kind(connection) == kind


async def test_what_was_fetched_is_kept_for_the_next_start(tmp_path: Path) -> None:
    """Z-6, Z-22, Z-26."""
    file = BootstrapFile(tmp_path / "below" / "bootstrap.dat", KEY)
    async with house(FileWriteback(file)) as at:
        async with running(at):
            await at.fetched(1)
        fetched = at.loop.current.value
        assert at.health.reports[Check.ZERO_BOOTSTRAP_SAVE].healthy
    async with house() as next_start:
        await next_start.loop.load(file)

        assert next_start.loop.current.value == fetched
        assert next_start.plane.seen == []
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert base64.b64encode(b"s" * 32) not in file.path.read_bytes()


async def test_a_failure_to_keep_it_is_reported_and_nothing_else(tmp_path: Path) -> None:
    """Z-26."""
    (tmp_path / "file").write_text("not a directory")
    file = BootstrapFile(tmp_path / "file" / "bootstrap.dat", KEY)
    async with house(FileWriteback(file)) as at, running(at):
        await at.fetched(1)

        assert at.loop.current.value is not None
        assert "cannot write" in at.health.reports[Check.ZERO_BOOTSTRAP_SAVE].error


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "too short"),
        (bytes(24), "too short"),
        (bytes(100), "another cluster token"),
        (seal_bootstrap(b"x" * 32, BOOTSTRAP), "another cluster token"),
        (seal(KEY, b"{"), "not JSON"),
        (seal(KEY, b"\xff"), "not JSON"),
        (seal(KEY, b"[]"), "expected a JSON object"),
        (seal(KEY, b'{"sharedSecret": 7}'), "sharedSecret is not base64"),
    ],
    ids=("empty", "nonce", "zeros", "other-key", "cut-short", "not-utf8", "list", "number"),
)
async def test_a_file_that_cannot_be_used_is_named_and_the_start_goes_on(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    """Z-7."""
    file = BootstrapFile(tmp_path / "bootstrap.dat", KEY)
    file.path.write_bytes(content)

    with pytest.raises(ConfigRejected, match=complaint):
        await file.load()
    async with house(FileWriteback(file)) as at:
        await at.loop.load(file)
        loaded = at.loop.current.value
        async with running(at):
            await at.fetched(1)
        fetched = at.loop.current.value
    assert (loaded, fetched is None) == (None, False)
    assert await file.load() == fetched


async def test_a_file_that_names_a_store_we_do_not_have_waits_for_the_api(tmp_path: Path) -> None:
    """Z-7, Z-23: otherwise the file would stop each start, and nobody would hear that the settings were mended."""
    file = BootstrapFile(tmp_path / "bootstrap.dat", KEY)
    await file.save(replace(BOOTSTRAP, storage_connection="other://ada:secret@db"))

    async with house(FileWriteback(file)) as at:
        await at.loop.load(file)
        loaded = at.loop.current.value
        async with running(at):
            await at.fetched(1)

        assert loaded is None
        assert at.loop.current.value is not None
        assert (await file.load()) == at.loop.current.value


async def test_a_missing_file_is_no_error(tmp_path: Path) -> None:
    """Z-7."""
    assert await BootstrapFile(tmp_path / "nothing", KEY).load() is None


async def test_an_unreadable_file_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    """Z-7."""
    with pytest.raises(ConfigRejected, match="cannot read"):
        await BootstrapFile(tmp_path, KEY).load()


async def test_the_same_content_is_not_written_again(tmp_path: Path) -> None:
    """W5."""
    file = BootstrapFile(tmp_path / "bootstrap.dat", KEY)
    await file.save(BOOTSTRAP)
    before = file.path.read_bytes()

    await file.save(BOOTSTRAP)

    assert file.path.read_bytes() == before
    assert not file.previous.exists()


async def test_the_previous_good_copy_is_used_when_the_file_is_damaged(tmp_path: Path) -> None:
    """W5."""
    file = BootstrapFile(tmp_path / "bootstrap.dat", KEY)
    await file.save(BOOTSTRAP)
    newer = BootstrapConfig(cluster_id="d", organization_id="o", shared_secret=b"s" * 32)
    await file.save(newer)
    assert await file.load() == newer

    file.path.write_bytes(file.path.read_bytes()[:30])

    assert await file.load() == BOOTSTRAP
    await file.save(newer)
    assert open_sealed(KEY, file.previous.read_bytes()) == BOOTSTRAP
    assert await file.load() == newer
    assert stat.S_IMODE(file.previous.stat().st_mode) == 0o600


async def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W5: a full disk, at the last moment."""
    file = BootstrapFile(tmp_path / "bootstrap.dat", KEY)
    await file.save(BOOTSTRAP)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    newer = BootstrapConfig(cluster_id="d", organization_id="o", shared_secret=b"s" * 32)
    with pytest.raises(OSError, match="No space left"):
        await file.save(newer)

    assert await file.load() == BOOTSTRAP
    assert names_in(tmp_path) == {"bootstrap.dat", "bootstrap.dat.previous"}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_a_file_of_the_reference_is_read(tmp_path: Path) -> None:
    """Z-6: zero link 8.1, nil byte fields appear as null."""
    secret = base64.b64encode(b"s" * 32).decode()
    plaintext = f'{{"clusterId":"c","organizationId":"o","pseudonymizationKey":null,"sharedSecret":"{secret}"}}'
    file = BootstrapFile(tmp_path / "bootstrap.dat", KEY)
    file.path.write_bytes(seal(KEY, plaintext.encode()))

    assert await file.load() == BOOTSTRAP
