"""Whose word counts: the control plane's, and until it speaks what was last known to be good (architecture 4.4)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.handed import Handed
from pomerium_agent.agent.last_good import Kept, LastGood
from pomerium_agent.agent.supply import GRACE_SECONDS, KEEP_EVERY, Supply
from pomerium_agent.config import Compiled, open_config
from pomerium_agent.config.digest import records_digest
from pomerium_agent.databroker import MemoryBackend
from pomerium_agent.records import Record
from pomerium_agent.runtime.health import Check, Health, Report
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.sessions.handle import Handle
from pomerium_agent.sessions.identity import resolve
from pomerium_agent.sessions.live import Sessions, open_sessions
from tests.fakes import session_records as people
from tests.fakes.clock import ManualClock
from tests.fakes.config_records import config, route

KEY = bytes(range(32))
AT = datetime(2029, 12, 31, tzinfo=UTC)
ENVOY = 4711


def records(path: str) -> tuple[Record, ...]:
    return (config("config", route(prefix=path)),)


def kept(path: str) -> Kept:
    return Kept(digest=records_digest(records(path)), at=AT, records=records(path))


@dataclass
class Stage:
    """A supply with a clock by hand; `envoy` plays the Envoy, which takes all but what it `refuses`."""

    directory: Path
    clock: ManualClock = field(default_factory=ManualClock)
    health: Health = field(default_factory=Health)
    filled: Latest[bool] = field(default_factory=lambda: Latest(False))
    missed: Latest[bool] = field(default_factory=lambda: Latest(False))
    config: Latest[Compiled | None] = field(default_factory=lambda: Latest(None))
    handed: Handed | None = None
    refuses: set[str] = field(default_factory=set)  # digests

    def __post_init__(self) -> None:
        self.store = MemoryBackend(self.clock)
        self.board = Board(version="", instance="", health=self.health, keeper_pid=0, envoy_pid=Latest(ENVOY))
        self.last_good = LastGood(self.directory, KEY)
        self.seen: list[str] = []
        self.sessions = Sessions(self.store)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with open_sessions(self.store, self.clock, self.health) as self.sessions, self.supplying():
            yield
        await self.store.close()

    @asynccontextmanager
    async def supplying(self) -> AsyncIterator[None]:
        supply = Supply(
            config=self.config,
            filled=self.filled,
            missed=self.missed,
            databroker=self.store,
            open_config=partial(open_config, clock=self.clock, health=self.health, read_file=None),
            last_good=self.last_good,
            board=self.board,
            clock=self.clock,
            sessions=self.sessions,
            handed=self.handed,
        )
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(supply.run()), group.create_task(self.envoy())]
            yield
            for task in tasks:
                task.cancel()

    async def envoy(self) -> None:
        async for compiled in self.config.follow():
            if compiled is not None:
                self.seen.append(compiled.snapshot.digest)
                if compiled.snapshot.digest in self.refuses:
                    continue
                self.board.in_force.set(compiled.snapshot.digest)

    async def until_serves(self, path: str) -> None:
        await self.until(lambda: self.board.in_force.value == kept(path).digest)

    async def until(self, holds: object, *, step: float = 0.1) -> None:
        assert callable(holds)
        async with asyncio.timeout(10):
            while not holds():
                await self.clock.advance(step)
                await asyncio.sleep(0.001)  # threads are at work

    @property
    def report(self) -> Report | None:
        return self.health.reports.get(Check.LAST_GOOD)

    def kept_here(self, path: str) -> bool:
        """Whether this is what the file holds, and that was said."""
        report = self.report
        return report is not None and report.healthy and report.attributes["digest"] == kept(path).digest


async def test_the_control_plane_that_speaks_in_time_is_all_that_is_heard(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.last_good.save(kept("/stale"))
    async with stage.running():
        await stage.store.put(records("/live"))
        stage.filled.set(True)
        await stage.until_serves("/live")

        assert stage.seen == [kept("/live").digest]
        await stage.until(lambda: stage.kept_here("/live"))
    found = await LastGood(tmp_path, KEY).load()
    assert found is not None
    assert (found.digest, found.records[0].id) == (kept("/live").digest, "config")


async def test_silence_means_what_was_last_known_until_there_is_something_newer(tmp_path: Path) -> None:
    """Z-51, Z-65: in every storage mode; status, log and a health check say of when it is."""
    stage = Stage(tmp_path)
    await stage.last_good.save(kept("/stale"))
    async with stage.running():
        await stage.until_serves("/stale")
        assert stage.board.status()["config"]["last_good_of"] == AT.isoformat()  # type: ignore[index]  # our own JSON
        assert stage.report is not None
        assert "of 2029-12-31T00:00:00+00:00" in stage.report.error

        await stage.store.put(records("/live"))
        stage.filled.set(True)
        await stage.until_serves("/live")

        assert stage.board.status()["config"]["last_good_of"] is None  # type: ignore[index]  # our own JSON
        assert stage.seen == [kept("/stale").digest, kept("/live").digest]
        await stage.until(lambda: stage.kept_here("/live"))


async def test_a_control_plane_that_has_failed_is_not_waited_for(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.last_good.save(kept("/stale"))
    stage.missed.set(True)
    async with stage.running():
        await stage.until(
            lambda: stage.board.stale is not None, step=0.0
        )  # threads are at work, the clock stands still


async def test_the_same_from_the_control_plane_makes_it_fresh(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.last_good.save(kept("/same"))
    async with stage.running():
        await stage.until_serves("/same")
        await stage.store.put(records("/same"))
        stage.filled.set(True)

        await stage.until(lambda: stage.kept_here("/same"))

        assert stage.board.stale is None
    found = await LastGood(tmp_path, KEY).load()
    assert found is not None
    assert found.at > AT


async def test_what_cannot_be_used_is_said_and_ignored(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await LastGood(tmp_path, bytes(32)).save(kept("/foreign"))
    async with stage.running():
        await stage.clock.until_sleeping()
        await stage.clock.advance(GRACE_SECONDS)
        await stage.until(lambda: stage.report is not None)

        assert stage.report is not None
        assert "another cluster token" in stage.report.error
        assert stage.config.value is None
        await stage.store.put(records("/live"))
        stage.filled.set(True)
        await stage.until_serves("/live")


async def test_an_adopted_envoy_that_has_the_same_is_served_from_it(tmp_path: Path) -> None:
    """So that routes which ask for a session do not wait for the control plane."""
    stage = Stage(tmp_path, handed=Handed(kept("/stale").digest, ENVOY))
    await stage.last_good.save(kept("/stale"))
    async with stage.running():
        await stage.until_serves("/stale")


async def test_an_adopted_envoy_that_has_something_newer_keeps_it(tmp_path: Path) -> None:
    """What is stale never replaces what is newer: the disk was full when that was to be kept."""
    stage = Stage(tmp_path, handed=Handed(kept("/newer").digest, ENVOY))
    await stage.last_good.save(kept("/stale"))
    async with stage.running():
        await stage.until(lambda: stage.report is not None)

        assert stage.report is not None
        assert "may be newer" in stage.report.error
        assert stage.seen == []


async def test_a_note_about_an_envoy_that_is_gone_hinders_nobody(tmp_path: Path) -> None:
    stage = Stage(tmp_path, handed=Handed(kept("/newer").digest, ENVOY - 1))
    await stage.last_good.save(kept("/stale"))
    async with stage.running():
        await stage.until_serves("/stale")


async def test_what_cannot_be_written_is_said_and_tried_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path / "state")
    (tmp_path / "state").write_text("a file where the directory should be")
    async with stage.running():
        await stage.store.put(records("/live"))
        stage.filled.set(True)
        await stage.until_serves("/live")
        await stage.until(lambda: stage.report is not None)
        assert stage.report is not None
        assert "not kept" in stage.report.error

        (tmp_path / "state").unlink()

        await stage.until(lambda: stage.kept_here("/live"))


ROBOT = (
    people.account("robot", "u-robot"),
    people.directory_user("u-robot", email="robot@example.com", group_ids=["g1", "g9"]),
    people.directory_group("g1", "Robots"),
)
OTHERS = (people.directory_user("u-ada", group_ids=["g2"]), people.directory_group("g2", "Engineers"))


async def callers_kept(stage: Stage, wanted: tuple[Record, ...]) -> None:
    """Until the file says so."""
    async with asyncio.timeout(10):
        while True:
            found = await LastGood(stage.directory, KEY).load()
            if found is not None and {(r.type, r.id, r.data) for r in found.callers} == {
                (r.type, r.id, r.data) for r in wanted
            }:
                return
            await stage.clock.advance(0.1)
            await asyncio.sleep(0.001)


async def test_service_accounts_and_what_is_known_of_their_users_are_kept_too(tmp_path: Path) -> None:
    """And follow every change; that an account was used is none."""
    stage = Stage(tmp_path)
    async with stage.running():
        await stage.store.put((*records("/live"), *ROBOT[:1]))
        stage.filled.set(True)
        await callers_kept(stage, ROBOT[:1])
        await stage.store.put((*OTHERS, *ROBOT[1:]))
        await callers_kept(stage, ROBOT)
        before = stage.last_good.path.stat().st_mtime_ns

        await stage.store.put([people.account("robot", "u-robot", accessed=AT)])
        for _ in range(50):
            await stage.clock.advance(0.1)
            await asyncio.sleep(0.001)
        assert stage.last_good.path.stat().st_mtime_ns == before

        await stage.store.put([people.directory_group("g1", "Renamed")])
        await callers_kept(stage, (*ROBOT[:2], people.directory_group("g1", "Renamed")))
        await stage.store.put([people.gone(ROBOT[0])])
        await callers_kept(stage, ())


async def test_an_account_that_is_revoked_while_envoy_refuses_the_newest_is_not_kept(tmp_path: Path) -> None:
    """Or a replica that is started anew while the control plane is away would let it in again."""
    stage = Stage(tmp_path, refuses={kept("/refused").digest})
    async with stage.running():
        await stage.store.put((*records("/live"), ROBOT[0]))
        stage.filled.set(True)
        await callers_kept(stage, ROBOT[:1])

        await stage.store.put(records("/refused"))
        await stage.until(lambda: kept("/refused").digest in stage.seen)
        await stage.store.put([people.gone(ROBOT[0])])

        await callers_kept(stage, ())
        assert stage.kept_here("/live")


async def test_service_accounts_are_lent_while_what_is_stale_is_served(tmp_path: Path) -> None:
    """Never by way of the store; those that the control plane has revoked meanwhile end the moment it is back."""
    stage = Stage(tmp_path)
    revoked, expired = people.account("revoked", "u"), people.account("expired", "u", expires=AT)
    await stage.last_good.save(replace(kept("/stale"), callers=(*ROBOT, revoked, expired)))
    async with stage.running():
        await stage.until_serves("/stale")
        sessions = stage.sessions
        robot = resolve(sessions, Handle(id="robot"), stage.clock.now())
        assert robot is not None
        assert (robot.identity.email, robot.group_names) == ("robot@example.com", {"g1": "Robots"})
        assert sessions.service_account("revoked") is not None
        assert sessions.service_account("expired") is None
        _, in_store = await stage.store.latest("")
        assert in_store == ()

        await stage.store.put(ROBOT)
        stage.filled.set(True)
        await stage.until(lambda: sessions.service_account("revoked") is None)

        again = resolve(sessions, Handle(id="robot"), stage.clock.now())
        assert again is not None
        assert again.identity == robot.identity
        await stage.store.put(records("/live"))
        await stage.until_serves("/live")
        assert sessions.service_account("robot") is not None


class Timed(LastGood):
    """Notes when it was written, by the clock of the stage."""

    def __init__(self, directory: Path, clock: ManualClock) -> None:
        super().__init__(directory, KEY)
        self.clock = clock
        self.times: list[float] = []

    async def save(self, kept: Kept) -> None:
        self.times.append(self.clock.monotonic())
        await super().save(kept)


async def test_a_burst_of_changes_is_not_written_one_by_one_and_its_end_is(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    timed = stage.last_good = Timed(tmp_path, stage.clock)
    async with stage.running():
        await stage.store.put(records("/0"))
        stage.filled.set(True)
        await stage.until_serves("/0")
        for number in range(1, 8):
            await stage.store.put(records(f"/{number}"))
            await stage.until_serves(f"/{number}")

        await stage.until(lambda: stage.kept_here("/7"))

    assert len(timed.times) > 1
    assert all(later - earlier >= KEEP_EVERY for earlier, later in pairwise(timed.times))
