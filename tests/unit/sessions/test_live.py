"""The live copy: it equals the store, it loses nothing, it knows when it does not know."""

import asyncio
import tracemalloc
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pomerium_agent.databroker.follow import Reset
from pomerium_agent.errors import DatabrokerUnavailable
from pomerium_agent.records import Record
from pomerium_agent.runtime.health import Check, Status
from pomerium_agent.sessions import entries
from pomerium_agent.sessions.handle import Handle
from pomerium_agent.sessions.identity import Resolved, resolve
from pomerium_agent.sessions.live import Sessions
from tests.fakes import session_records as people
from tests.fakes.clock import settle
from tests.unit.sessions.stage import Stage, handle

FAR = 10**6


async def test_a_session_is_known_as_soon_as_its_change_arrives_and_gone_with_its_deletion() -> None:
    """A-32, [D] of authorize 22: revocation is the lag of the change log and nothing more."""
    stage = Stage()

    async with stage.sessions() as sessions:
        await stage.put(people.session("s", "u"))
        assert sessions.session("s") is not None
        await stage.put(people.gone(people.session("s")))
        assert sessions.session("s") is None


async def test_all_seven_types_are_followed() -> None:
    stage = Stage()
    await stage.put(people.session("s", "u"), people.account("a", "u"), people.user("u", "u@x"))

    async with stage.sessions() as sessions:
        await stage.put(people.directory_user("u", email="d@x", group_ids=["g"]), people.directory_group("g", "Group"))
        await stage.put(people.credential("c", "e"), people.enrollment("e", "boss"))

        assert sessions.loaded
        assert sessions.session("s") == entries.SessionEntry(user_id="u")
        assert sessions.service_account("a") == entries.AccountEntry(user_id="u")
        assert sessions.user("u") == entries.UserEntry(email="u@x")
        assert sessions.directory_user("u") == entries.DirectoryUserEntry(email="d@x", group_ids=("g",))
        assert sessions.directory_group("g") == entries.DirectoryGroupEntry(name="Group")
        assert sessions.credential("c") == entries.CredentialEntry(enrollment_id="e")
        assert sessions.enrollment("e") == entries.EnrollmentEntry(approved=True)
    assert stage.health.reports[Check.DATABROKER_SYNC].status is Status.RUNNING


async def test_a_record_that_cannot_be_read_is_no_session() -> None:
    """A-8: also when it was one before."""
    stage = Stage()
    good = people.session("s", "u")

    async with stage.sessions() as sessions:
        await stage.put(good)
        await stage.put(Record(type=good.type, id="s", data=people.user("u").data))
        assert sessions.session("s") is None
        await stage.put(good)
        assert sessions.session("s") is not None


async def test_a_record_without_data_is_no_session() -> None:
    stage = Stage()

    async with stage.sessions() as sessions:
        await stage.put(Record(type=entries.SESSION, id="s"), Record(type=entries.DIRECTORY_USER, id="u"))

        assert sessions.session("s") is None
        assert sessions.directory_user("u") is None


async def test_another_data_set_replaces_the_whole_copy() -> None:
    """Databroker V13."""
    stage = Stage()

    async with stage.sessions() as sessions:
        await stage.put(people.session("old"))
        await stage.backend.clear()
        await stage.put(people.session("new"))
        await settle(200)

        assert (sessions.session("old"), sessions.session("new")) == (None, entries.SessionEntry())


async def test_a_large_first_copy_lets_others_run() -> None:
    stage = Stage()
    await stage.put(*(people.session(f"s{number}", "u") for number in range(2000)))

    async with stage.sessions() as sessions:
        await settle(100)
        assert len(sessions) == 2000


# --- read your writes ---------------------------------------------------------------------------------


async def test_nothing_is_waited_for_when_the_copy_was_made_after_the_hint() -> None:
    """A-7."""
    stage = Stage()
    written = await stage.put(people.user("u"), people.session("s", "u"))

    async with stage.sessions() as sessions:
        assert sessions.is_ready_for(handle("s", written))
        assert sessions.is_ready_for(handle("s"))
        await sessions.ready_for(handle("s", written))

    assert stage.backend.gets == []


async def test_a_fresh_login_is_known_at_once_even_if_the_change_log_lags() -> None:
    """A-7, N-29, D-39: session, user and devices are read past the log."""
    stage = Stage()

    async with stage.sessions() as sessions:
        stage.backend.lag()
        written = await stage.put(
            people.user("u", "u@x"),
            people.credential("c", "e"),
            people.enrollment("e", "boss"),
            people.session("s", "u", devices=[("any", "c")]),
        )
        fresh = handle("s", written)
        assert sessions.session("s") is None
        assert not sessions.is_ready_for(fresh)

        await sessions.ready_for(fresh)
        resolved = resolve(sessions, fresh, stage.clock.now())

        assert resolved is not None
        assert resolved.email == "u@x"
        assert resolved.identity.devices[0].approved
        assert sessions.is_ready_for(fresh)


async def test_an_impersonated_session_and_its_user_are_read_too() -> None:
    stage = Stage()

    async with stage.sessions() as sessions:
        stage.backend.lag()
        written = await stage.put(
            people.user("v", "v@x"), people.session("t", "v"), people.session("s", as_session="t")
        )
        await sessions.ready_for(handle("s", written))
        resolved = resolve(sessions, "s", stage.clock.now())

    assert resolved is not None
    assert (resolved.user_id, resolved.email) == ("v", "v@x")


async def test_a_fresh_service_account_is_read_past_the_log() -> None:
    stage = Stage()

    async with stage.sessions() as sessions:
        stage.backend.lag()
        written = await stage.put(people.account("a", "u"))
        await sessions.ready_for(handle("a", written))

        assert sessions.service_account("a") is not None


async def test_what_was_read_past_the_log_is_read_once() -> None:
    stage = Stage()

    async with stage.sessions() as sessions:
        written = await stage.put(people.session("s", "u"))
        await sessions.ready_for(handle("s", written))
        before = len(stage.backend.gets)
        await sessions.ready_for(handle("s", written))

    assert before > 0
    assert len(stage.backend.gets) == before


async def test_a_deletion_is_not_undone_by_what_was_read_before_it() -> None:
    """The read hangs; meanwhile the log tells of the session's end; then the old answer comes."""
    stage = Stage()

    async with stage.sessions() as sessions:
        written = await stage.put(people.session("s", "u"))
        old = await stage.backend.get(entries.SESSION, "s")
        await stage.put(people.gone(people.session("s")))
        sessions._sessions.learn(old)

        assert sessions.session("s") is None
        assert old.version == written.records[0].version


async def test_a_late_change_does_not_undo_what_was_read_past_the_log() -> None:
    stage = Stage()

    async with stage.sessions() as sessions:
        stage.backend.lag()
        await stage.put(people.session("s", "old"))
        written = await stage.put(people.session("s", "new"))
        await sessions.ready_for(handle("s", written))
        seen = [sessions.session("s")]
        stage.backend.flow()
        for _ in range(60):
            await settle(1)
            seen.append(sessions.session("s"))

    assert {entry.user_id if entry else None for entry in seen} == {"new"}


async def test_a_hint_from_a_data_set_that_is_gone_asks_for_nothing() -> None:
    stage = Stage()

    async with stage.sessions() as sessions:
        strange = Handle(id="s", databroker_server_version=12345, databroker_record_version=FAR)
        await sessions.ready_for(strange, timeout=5)

        assert resolve(sessions, strange, stage.clock.now()) is None
        assert sessions.is_ready_for(strange)


async def test_a_hint_from_a_new_data_set_waits_until_the_copy_is_of_it() -> None:
    stage = Stage()

    async with stage.sessions() as sessions:
        await stage.put(people.session("old"))
        await stage.backend.clear()
        written = await stage.backend.put([people.session("s", "u")])
        await sessions.ready_for(handle("s", written), timeout=5)

        assert sessions.session("s") is not None


async def test_what_is_learned_while_a_new_copy_is_made_is_not_lost() -> None:
    """A login in the middle of a large reset: its read comes before the swap, and the log after it."""
    stage = Stage()
    await stage.put(*(people.session(f"s{number}", "u") for number in range(1500)))

    async with stage.sessions() as sessions:
        await settle(100)
        await stage.backend.clear()
        await stage.backend.put([people.session(f"t{number}", "u") for number in range(1500)])
        await settle(3)
        stage.backend.lag()
        written = await stage.backend.put([people.user("v", "v@x"), people.session("fresh", "v")])
        await sessions.ready_for(handle("fresh", written), timeout=5)
        at_once = resolve(sessions, "fresh", stage.clock.now())
        stage.backend.flow()
        await settle(200)
        later = resolve(sessions, "fresh", stage.clock.now())

    assert at_once is not None
    assert later is not None
    assert (at_once.email, later.email) == ("v@x", "v@x")
    assert len(sessions) == 1501


# --- when the store is away ---------------------------------------------------------------------------


async def test_before_the_first_delivery_nobody_is_said_to_be_absent() -> None:
    """A-8."""
    stage = Stage()
    stage.backend.cut()

    async with stage.sessions() as sessions:
        assert not sessions.loaded
        assert not sessions.is_ready_for(handle("s"))
        with pytest.raises(DatabrokerUnavailable, match="within"):
            await sessions.ready_for(handle("s"), timeout=0.01)


async def test_once_the_store_is_back_everything_is_delivered() -> None:
    stage = Stage()
    await stage.put(people.session("s"))
    stage.backend.cut()

    async with stage.sessions() as sessions:
        waiting = asyncio.create_task(sessions.ready_for(handle("s"), timeout=20))
        stage.backend.mend()
        await stage.clock.advance(10)
        await waiting

        assert sessions.session("s") is not None


async def test_known_sessions_go_on_while_the_store_is_away_and_unknown_ones_are_an_outage() -> None:
    """A-8, architecture 7."""
    stage = Stage()

    async with stage.sessions() as sessions:
        written = await stage.put(people.session("known", "u"))
        stage.backend.cut()
        await settle(60)

        assert not sessions.reachable
        assert sessions.is_ready_for(handle("known"))
        await sessions.ready_for(handle("known", written))
        for unknown in (handle("unknown"), handle("known", await stage.backend.put([people.session("other")]))):
            with pytest.raises(DatabrokerUnavailable, match="the line is cut"):
                await sessions.ready_for(unknown)


async def test_a_store_that_hangs_is_waited_for_only_so_long() -> None:
    stage = Stage()

    async with stage.sessions() as sessions:
        written = await stage.put(people.session("s", "u"))
        stage.backend.hold()
        await sessions.ready_for(handle("s", written), timeout=0.01)
        assert sessions.is_ready_for(handle("s", written))

        with pytest.raises(DatabrokerUnavailable, match="no answer within"):
            await sessions.ready_for(Handle(id="x", databroker_record_version=FAR), timeout=0.01)


async def test_after_an_outage_the_log_is_read_from_where_it_was_lost() -> None:
    """Revocations that happened meanwhile arrive (A-32)."""
    stage = Stage()

    async with stage.sessions() as sessions:
        await stage.put(people.session("s"), people.session("t"))
        generation = sessions.generation
        stage.backend.cut()
        await settle(60)
        await stage.backend.put([people.gone(people.session("s"))])
        assert sessions.session("s") is not None

        stage.backend.mend()
        await stage.clock.advance(10)
        await settle(60)

        assert sessions.session("s") is None
        assert sessions.session("t") is not None
        assert sessions.generation == generation + 1
        assert sessions.reachable


# --- versions -----------------------------------------------------------------------------------------


WHOLE = (
    people.session("s", "u", as_session="", devices=[("any", "c")]),
    people.user("u", "u@x"),
    people.directory_user("u", email="d@x", group_ids=["g"]),
    people.directory_group("g", "Group"),
    people.credential("c", "e"),
    people.enrollment("e"),
)


@pytest.mark.parametrize(
    "change",
    [
        people.session("s", "v"),
        people.account("s", "v"),
        people.user("u", "other@x"),
        people.directory_user("u", email="d@x", group_ids=["g", "h"]),
        people.directory_group("g", "Renamed"),
        people.credential("c", "e2"),
        people.enrollment("e", "boss"),
    ]
    + [people.gone(record) for record in WHOLE],
    ids=lambda record: f"{'no ' if record.deleted else ''}{record.type.rpartition('/')[2]}",
)
async def test_the_version_of_a_session_changes_with_everything_that_makes_it_up(change: Record) -> None:
    stage = Stage()

    async with stage.sessions() as sessions:
        await stage.put(*WHOLE, people.session("bystander", "w"))
        version, bystander = sessions.version_of("s"), sessions.version_of("bystander")
        await stage.put(change)

        assert sessions.version_of("s") != version
        assert sessions.version_of("bystander") == bystander != 0


@pytest.mark.parametrize(
    "change",
    [
        WHOLE[0],
        people.session("s", "u", devices=[("any", "c")], accessed=people.NOW),
        people.session("s2", "u"),
        people.user("v"),
        people.directory_group("h", "Other"),
        people.gone(people.enrollment("e9")),
    ],
    ids=["written again", "accessed", "another session", "another user", "another group", "nothing"],
)
async def test_the_version_of_a_session_stays_when_nothing_of_it_changes(change: Record) -> None:
    stage = Stage()

    async with stage.sessions() as sessions:
        await stage.put(*WHOLE)
        version = sessions.version_of("s")
        await stage.put(change)

        assert sessions.version_of("s") == version


async def test_a_version_is_never_used_again() -> None:
    stage = Stage()

    async with stage.sessions() as sessions:
        seen = []
        for _ in range(3):
            await stage.put(people.session("s", "u"))
            seen.append(sessions.version_of("s"))
            await stage.put(people.gone(people.session("s")))
            assert sessions.version_of("s") == 0

    assert len(set(seen)) == 3


async def test_versions_survive_a_new_copy_of_the_same_records() -> None:
    stage = Stage()

    async with stage.sessions() as sessions:
        await stage.put(*WHOLE)
        version = sessions.version_of("s")
        copies = {table.type: await stage.backend.latest(table.type) for table in sessions._tables}
        for table in sessions._tables:
            cursor, records = copies[table.type]
            await table.reset(Reset(records, cursor))

        assert sessions.version_of("s") == version


SMALL = st.sampled_from("ab")
RECORDS = st.one_of(
    st.builds(
        people.session, SMALL, SMALL, as_session=st.sampled_from(["", "a", "b"]), devices=st.just([("any", "a")])
    ),
    st.builds(people.session, SMALL, SMALL, claims=st.sampled_from([{"k": ["1"]}, {"k": ["2"]}, {}])),
    st.builds(people.session, SMALL, SMALL, accessed=st.just(people.NOW)),
    st.builds(people.account, SMALL, SMALL),
    st.builds(people.user, SMALL, st.sampled_from(["", "x@x"])),
    st.builds(people.directory_user, SMALL, group_ids=st.lists(SMALL, max_size=2)),
    st.builds(people.directory_group, SMALL, st.sampled_from(["One", "Two"])),
    st.builds(people.credential, SMALL, SMALL),
    st.builds(people.enrollment, SMALL, st.sampled_from(["", "boss"])),
)
STEPS = st.lists(st.tuples(RECORDS, st.sampled_from(["put", "put", "delete", "learn", "clear"])), max_size=12)


def seen_of(sessions: Sessions, now: Any) -> dict[str, Resolved | None]:
    return {id: resolve(sessions, id, now) for id in "ab"}


async def equals_a_fresh_copy(stage: Stage, sessions: Sessions) -> None:
    async with stage.sessions() as fresh:
        for mine, theirs in zip(sessions._tables, fresh._tables, strict=True):
            assert mine.rows == theirs.rows
            assert {id: row.version for id, row in mine.rows.items()} == {
                id: row.version for id, row in theirs.rows.items()
            }


@settings(max_examples=60, deadline=None)
@given(STEPS)
async def test_the_copy_equals_a_fresh_one_and_versions_tell_every_change(steps: list[tuple[Record, str]]) -> None:
    """After any sequence of writes and deletions, with the log lagging or the data set replaced."""
    stage = Stage()
    now = stage.clock.now()

    async with stage.sessions() as sessions:
        by_version: dict[tuple[str, int], Resolved | None] = {}
        for record, step in steps:
            if step == "clear":
                await stage.backend.clear()
            if step == "learn":
                stage.backend.lag()
                written = await stage.put(record)
                await sessions.ready_for(handle(record.id, written))
                stage.backend.flow()
            await stage.put(people.gone(record) if step == "delete" else record)
            await settle(60)
            for id, resolved in seen_of(sessions, now).items():
                version = sessions.version_of(id)
                assert by_version.setdefault((id, version), resolved) == resolved
                assert resolved is None or resolved.version == version
        await equals_a_fresh_copy(stage, sessions)


async def test_memory_grows_linearly_with_the_sessions_and_modestly() -> None:
    """Bytes per session: a usual one, with a dozen claims and an opaque access token."""
    stage = Stage()
    claims = {name: [f"{name}-value"] for name in ("iss", "aud", "name", "given_name", "locale", "email", "picture")}

    def some(first: int, count: int) -> list[Record]:
        return [
            people.session(
                f"{n:036}", f"user-{n}", expires=people.NOW, token=f"{n:064}", claims={**claims, "sub": [f"{n}"]}
            )
            for n in range(first, first + count)
        ]

    async with stage.sessions() as sessions:
        sizes = []
        tracemalloc.start()
        try:
            for first in (0, 1000, 2000):
                records = [
                    Record(type=r.type, id=r.id, data=r.data, version=n)
                    for n, r in enumerate(some(first, 1000), first + 1)
                ]
                before = tracemalloc.get_traced_memory()[0]
                for record in records:
                    sessions._sessions._put(record)
                sizes.append((tracemalloc.get_traced_memory()[0] - before) / 1000)
                del records
        finally:
            tracemalloc.stop()

    assert len(sessions) == 3000
    assert max(sizes) < 2500, sizes
    assert max(sizes) < min(sizes) * 1.3, sizes


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_closing_at_any_moment_leaves_nothing_behind(turns: int) -> None:
    stage = Stage()
    await stage.put(*WHOLE)

    async def hold() -> None:
        async with stage.sessions():
            await asyncio.Event().wait()

    before = asyncio.all_tasks()
    holding = asyncio.create_task(hold())
    await settle(turns)
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding

    assert asyncio.all_tasks() == before


async def test_the_stage_itself_can_be_cut() -> None:
    """The fake store does what its name says."""
    stage = Stage()
    stage.backend.cut()

    with pytest.raises(DatabrokerUnavailable):
        async with aclosing(stage.backend.changes(await stage.backend.checkpoint())) as changes:
            await anext(changes)
