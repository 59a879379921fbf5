"""The bundles of the cluster, brought into the databroker: whole, in order, and nothing lost when one is bad."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import pytest

from pomerium_agent.databroker.bundle_entry import CACHE_ENTRY_TYPE, entry_from_record
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.errors import RecordNotFound, Refused
from pomerium_agent.records import Payload, Record
from pomerium_agent.runtime.health import Health, Status
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.zero.nudge import ConnectionState, Flag, Schedule
from pomerium_agent.zero.reconciler import Reconciler
from tests.fakes.clock import ManualClock
from tests.fakes.control_plane import CAPTURED, FakeControlPlane, Say, encode_bundle, html, say, serve_control_plane
from tests.unit.zero.wire import open_downloader, record

CONFIG = "type.googleapis.com/pomerium.config.Config"
CHECK = "zero.resource-bundle.config"


@dataclass(slots=True, kw_only=True)
class House:
    plane: FakeControlPlane
    backend: MemoryBackend
    health: Health
    clock: ManualClock
    reconciler: Reconciler
    filled: Latest[bool]
    missed: Latest[bool]
    flag: Flag
    schedule: Schedule

    async def ids(self, type: str = CONFIG) -> list[str]:
        return [one.id for one in (await self.backend.latest(type))[1]]

    async def version(self) -> int:
        return (await self.backend.server_info()).latest_record_version


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    """A control plane, and a reconciler between it and a databroker in memory."""
    clock, health, flag = ManualClock(), Health(), Flag()
    backend = MemoryBackend(clock)
    connection, filled, missed = Latest(ConnectionState()), Latest(False), Latest(False)
    async with serve_control_plane() as plane, open_downloader(plane, clock=clock) as (api, downloader):
        yield House(
            plane=plane,
            backend=backend,
            health=health,
            clock=clock,
            reconciler=Reconciler(api, downloader, backend, health=health, clock=clock, filled=filled, missed=missed),
            filled=filled,
            missed=missed,
            flag=flag,
            schedule=Schedule(connection, flag, clock=clock, on_disconnect=True, gap=0.0),
        )
    await backend.close()


@asynccontextmanager
async def running(at: House) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(at.reconciler.run(at.schedule))
        yield
        task.cancel()


async def until(at: House, holds: str, check: str = CHECK) -> None:
    """Wait until a check is healthy, or failed with a text that contains `holds`."""
    async with asyncio.timeout(10):
        async for report in at.health.follow():
            if report.check == check and (report.healthy if not holds else holds in report.error):
                return


async def test_the_databroker_holds_exactly_what_the_bundle_says() -> None:
    """Z-38, Z-40, Z-44."""
    async with house() as at:
        await at.backend.put([record("foreign"), record("b", b"old"), record("s", type="session.Session")])
        at.plane.publish("config", [record("a"), record("b", b"new")], etag='"1"', metadata="v1")

        await at.reconciler.sync("config")

        found = {one.id: one.data for one in (await at.backend.latest(CONFIG))[1]}
        assert found == {"a": Payload(CONFIG, b"1"), "b": Payload(CONFIG, b"new")}
        assert await at.ids("session.Session") == ["s"]
        entry = entry_from_record(await at.backend.get(CACHE_ENTRY_TYPE, "config"))
        assert entry is not None
        assert (entry.etag, entry.record_types) == ('"1"', (CONFIG,))
        report = at.health.reports[CHECK]
        assert report.healthy
        assert report.attributes == {CAPTURED: "v1"}


async def test_the_cache_entry_is_written_after_every_record() -> None:
    """Z-40."""
    async with house() as at:
        at.plane.publish("config", [record("a"), record("b")], etag='"1"')

        await at.reconciler.sync("config")

        entry = await at.backend.get(CACHE_ENTRY_TYPE, "config")
        assert entry.version == await at.version()


async def test_the_databroker_counts_as_filled_once_a_round_brought_something_in() -> None:
    """Until then an empty one says nothing about the configuration; one bad bundle does not keep the others waiting."""
    async with house() as at:
        at.plane.publish("bad", b"not a bundle", etag='"1"')
        at.plane.publish("good", [record("a")], etag='"1"')
        assert not at.filled.value

        async with running(at):
            async with asyncio.timeout(10):
                async for filled in at.filled.follow():
                    if filled:
                        break

        assert await at.ids() == ["a"]


async def test_a_control_plane_that_fails_at_once_is_known_to_have_failed() -> None:
    """Z-65: so that nobody waits for it any longer who has something to serve."""
    async with house() as at:
        at.plane.always("bundles", say({"error": "not today"}, 500))
        async with running(at), asyncio.timeout(10), aclosing(at.missed.follow()) as missed:
            async for said in missed:
                if said:
                    break

        assert not at.filled.value


async def test_the_databroker_is_filled_when_every_bundle_is_in_and_not_before() -> None:
    """A configuration with a bundle missing would take the routes of that one away."""
    async with house() as at:
        at.plane.publish("one", [record("a")], etag='"1"')
        at.plane.publish("two", [record("x", type="other")], etag='"1"')
        good = Say(content_type="application/octet-stream", headers={"ETag": '"1"'}, body=encode_bundle([record("a")]))
        at.plane.script("storage", good, html(503))

        async with running(at):
            await until(at, " ", "zero.resource-bundle.two")
            assert await at.ids() == ["a"]
            assert not at.filled.value

            at.flag.put_up()
            await until(at, "", "zero.resource-bundle.two")
            assert await at.ids("other") == ["x"]
            assert await becomes(at.filled)


async def test_a_bundle_that_is_there_from_before_counts_although_it_cannot_be_fetched() -> None:
    """What is in the databroker is the last that was known of it."""
    async with house() as at:
        at.plane.publish("one", [record("a")], etag='"1"')
        at.plane.publish("two", [record("x", type="other")], etag='"1"')
        await at.reconciler.sync("two")
        at.plane.always("storage", html(503))
        at.plane.publish("two", [record("y", type="other")], etag='"2"')
        at.plane.bundles.pop("one")

        async with running(at):
            await until(at, " ", "zero.resource-bundle.two")
            assert await becomes(at.filled)

        assert await at.ids("other") == ["x"]


async def becomes(claim: Latest[bool]) -> bool:
    """Whether it comes true."""
    async with asyncio.timeout(10):
        async for true in claim.follow():
            if true:
                return True
    return False


async def test_a_cluster_without_bundles_is_filled_with_nothing() -> None:
    async with house() as at, running(at), asyncio.timeout(10):
        async for filled in at.filled.follow():
            if filled:
                break


async def test_a_bundle_that_cannot_be_read_fills_nothing() -> None:
    async with house() as at:
        at.plane.publish("config", b"not a bundle", etag='"1"')

        async with running(at):
            await until(at, " ")

        assert not at.filled.value


async def test_a_type_that_the_bundle_no_longer_holds_is_cleared() -> None:
    """Z-38: bundle types and cached types."""
    async with house() as at:
        at.plane.publish("config", [record("a"), record("x", type="other")], etag='"1"')
        await at.reconciler.sync("config")
        at.plane.publish("config", [record("a")], etag='"2"')

        await at.reconciler.sync("config")

        assert await at.ids() == ["a"]
        assert await at.ids("other") == []


async def test_an_unchanged_bundle_changes_nothing_and_is_still_reported() -> None:
    """Z-34, W10."""
    async with house() as at:
        at.plane.publish("config", [record("a")], etag='"1"', metadata="v1")
        await at.reconciler.sync("config")
        before = await at.version()
        at.health.failed(CHECK, "a download failed meanwhile")

        await at.reconciler.sync("config")

        assert await at.version() == before
        assert at.health.reports[CHECK].healthy
        assert at.health.reports[CHECK].attributes == {CAPTURED: "v1"}


async def test_a_replica_that_finds_the_bundle_already_applied_says_so() -> None:
    """W10, Z-41: after a restart, with a databroker that outlived us."""
    async with house() as before, house() as at:
        before.plane.publish("config", [record("a")], etag='"1"')
        await before.reconciler.sync("config")
        await at.backend.put((await before.backend.latest())[1])
        at.plane.publish("config", [record("a")], etag='"1"', metadata="v1")

        await at.reconciler.sync("config")

        assert [seen.method for seen in at.plane.requests("storage")] == ["GET", "HEAD"]
        assert at.health.reports[CHECK].attributes == {CAPTURED: "v1"}


async def test_what_another_replica_brought_in_is_not_reported_with_our_old_metadata() -> None:
    """W10, Z-44: the lease went to another replica and came back."""
    async with house() as at:
        at.plane.publish("config", [record("a")], etag='"1"', metadata="v1")
        await at.reconciler.sync("config")
        at.plane.publish("config", [record("b")], etag='"2"', metadata="v2")
        async with open_downloader(at.plane, clock=at.clock) as (api, downloader):
            await Reconciler(api, downloader, at.backend, health=Health(), clock=at.clock).sync("config")

        await at.reconciler.sync("config")

        assert at.health.reports[CHECK].attributes == {CAPTURED: "v2"}


async def test_new_metadata_is_remembered_and_the_records_stay() -> None:
    """Z-35."""
    async with house() as at:
        at.plane.publish("config", [record("a")], etag='"1"')
        await at.reconciler.sync("config")
        stored = await at.backend.get(CONFIG, "a")
        at.plane.publish("config", [record("a")], etag='"1"', last_modified="later", metadata="v2")

        await at.reconciler.sync("config")

        entry = entry_from_record(await at.backend.get(CACHE_ENTRY_TYPE, "config"))
        assert entry is not None
        assert entry.last_modified == "later"
        assert await at.backend.get(CONFIG, "a") == stored
        assert at.health.reports[CHECK].attributes == {CAPTURED: "v2"}


BAD_BUNDLES = {
    "undecodable": (Say(body=b"\x05hello", headers={"ETag": "2"}), "record at byte 0 cannot be decoded"),
    "cut short": (
        Say(body=encode_bundle([record("a"), record("b")])[:-3], headers={"ETag": "2"}),
        "the bundle is cut short: the record at byte",
    ),
    "record over the limit": (Say(body=b"\xff\xff\xff\x7f", headers={"ETag": "2"}), "at most 4194304 are allowed"),
    "a page": (html(), "200 text/html, which is a page"),
    "our own cache entries": (
        Say(body=encode_bundle([record("config", type=CACHE_ENTRY_TYPE)]), headers={"ETag": "2"}),
        "which only replicas write",
    ),
}


@pytest.mark.parametrize("kind", BAD_BUNDLES)
async def test_a_bad_bundle_changes_nothing_and_does_not_keep_the_others_waiting(kind: str) -> None:
    """Z-36, Z-43, Z-44: the bundle before it stays in force, and it is in again once it is good again."""
    answer, complaint = BAD_BUNDLES[kind]
    async with house() as at:
        at.plane.publish("config", [record("a")], etag='"1"')
        at.plane.publish("later", [record("x", type="other")], etag='"1"')
        await at.reconciler.sync("config")
        before = await at.version()
        at.plane.script("storage", answer)

        async with running(at):
            await until(at, complaint)
            await until(at, "", check="zero.resource-bundle.later")
            assert await at.ids() == ["a"]
            assert (await at.backend.get(CONFIG, "a")).version <= before
            assert await at.ids("other") == ["x"]
            await at.clock.until_sleeping()
            await at.clock.advance(1)
            await until(at, "")


async def test_unknown_record_types_are_stored_like_any_other() -> None:
    async with house() as at:
        at.plane.publish("config", [record("a", type="example.com/Unheard")], etag='"1"')

        await at.reconciler.sync("config")

        assert await at.ids("example.com/Unheard") == ["a"]


async def test_an_empty_bundle_deletes_its_records_and_comes_to_rest() -> None:
    """W11: zero link 12.3."""
    async with house() as at:
        at.plane.publish("config", [record("a")], etag='"1"')
        await at.reconciler.sync("config")
        at.plane.publish("config", b"", etag='"2"')

        await at.reconciler.sync("config")
        settled = await at.version()
        await at.reconciler.sync("config")

        assert await at.ids() == []
        assert await at.version() == settled
        assert at.plane.requests("storage")[-1].headers["if-none-match"] == '"2"'
        assert at.health.reports[CHECK].healthy
        with pytest.raises(RecordNotFound):
            await at.backend.get(CACHE_ENTRY_TYPE, "config")


async def test_a_bundle_that_was_empty_fills_again() -> None:
    """W11."""
    async with house() as at:
        for content, etag in (([record("a")], '"1"'), ([], '"2"'), ([record("a")], '"1"')):
            at.plane.publish("config", content, etag=etag)
            await at.reconciler.sync("config")

        assert await at.ids() == ["a"]


async def test_what_a_vanished_bundle_left_behind_is_removed() -> None:
    """W11."""
    async with house() as at:
        at.plane.publish("config", [record("a")], etag='"1"')
        at.plane.publish("extra", [record("x", type="other")], etag='"1"')
        await at.reconciler.sync("config")
        await at.reconciler.sync("extra")
        del at.plane.bundles["extra"]

        async with running(at):
            await at.clock.until_sleeping()

        assert await at.ids() == ["a"]
        assert await at.ids("other") == []
        assert await at.ids(CACHE_ENTRY_TYPE) == ["config"]
        assert at.health.reports["zero.resource-bundle.extra"].status is Status.TERMINATING


async def test_a_list_without_any_bundle_removes_nothing() -> None:
    """W11: it is what a control plane in trouble would send."""
    async with house() as at:
        at.plane.publish("config", [record("a")], etag='"1"')
        await at.reconciler.sync("config")
        del at.plane.bundles["config"]

        async with running(at):
            await at.clock.until_sleeping()

        assert await at.ids() == ["a"]


async def test_a_bundle_that_gets_another_name_loses_no_record_on_the_way() -> None:
    """W11, W12: what vanished goes last, and what another bundle holds by then stays."""
    async with house() as at:
        at.plane.publish("config", [record("a")], etag='"1"')
        await at.reconciler.sync("config")
        before = await at.backend.get(CONFIG, "a")
        at.plane.publish("renamed", [record("a")], etag='"9"')
        del at.plane.bundles["config"]

        async with running(at):
            await at.clock.until_sleeping()

        assert await at.backend.get(CONFIG, "a") == before
        assert await at.ids(CACHE_ENTRY_TYPE) == ["renamed"]


@pytest.mark.parametrize("answer", [html(), say({}), say({"error": "x"}, 500)])
async def test_a_list_that_cannot_be_had_removes_nothing_and_is_asked_for_again(answer: Say) -> None:
    """Z-65."""
    async with house() as at:
        at.plane.publish("config", [record("a")], etag='"1"')
        await at.reconciler.sync("config")
        at.plane.script("bundles", answer, answer)

        async with running(at):
            for _ in range(2):
                await at.clock.until_sleeping()
                assert await at.ids() == ["a"]
                await at.clock.advance(2)
            await at.plane.until(lambda: len(at.plane.requests("bundles")) == 3)


async def test_a_nudge_lists_and_syncs_at_once() -> None:
    """Z-20."""
    async with house() as at, running(at):
        await at.clock.until_sleeping()
        at.plane.publish("config", [record("a")], etag='"1"')

        at.flag.put_up()

        await until(at, "")
        assert await at.ids() == ["a"]


async def test_a_nudge_during_the_wait_between_two_tries_tries_at_once() -> None:
    """Zero link 11.1."""
    async with house() as at:
        at.plane.publish("config", b"\x05hello", etag='"1"')
        async with running(at):
            await until(at, "cannot be decoded")
            await at.clock.until_sleeping()
            at.plane.publish("config", [record("a")], etag='"2"')

            at.flag.put_up()

            await until(at, "")
    assert len(at.plane.requests("bundles")) == 2


async def test_an_interrupted_apply_is_done_again_in_full() -> None:
    """Z-40: also when the bundle meanwhile went back to the version of the cache entry."""
    async with house() as at:
        old, new = [record("a", b"old")], [record("a", b"new")]
        at.plane.publish("config", old, etag='"1"')
        await at.reconciler.sync("config")
        at.plane.publish("config", new, etag='"2"')
        failing = _FailsAtTheEntry(at.backend)
        at.reconciler._backend = failing  # type: ignore[assignment]  # a databroker that dies between two writes
        with pytest.raises(ConnectionError):
            await at.reconciler.sync("config")
        at.reconciler._backend = at.backend
        assert (await at.backend.get(CONFIG, "a")).data == Payload(CONFIG, b"new")
        at.plane.publish("config", old, etag='"1"')

        await at.reconciler.sync("config")

        assert (await at.backend.get(CONFIG, "a")).data == Payload(CONFIG, b"old")


class _FailsAtTheEntry:
    def __init__(self, backend: MemoryBackend) -> None:
        self.get = backend.get
        self.latest = backend.latest
        self._backend = backend

    async def put(self, records: list[Record]) -> None:
        if records[0].type == CACHE_ENTRY_TYPE:
            raise ConnectionError
        await self._backend.put(records)


async def test_a_refusal_ends_the_job() -> None:
    """Z-10: zero link 4.4."""
    async with house() as at:
        at.plane.always("bundles", say({"error": "gone"}, 400))

        with pytest.raises(Refused, match="gone"):
            await at.reconciler.run(at.schedule)
