"""Access tracking: noted at once, written in batches, never in anybody's way."""

from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from pomerium_agent.pb.pomerium import session_pb2, user_pb2
from pomerium_agent.records import unpack
from pomerium_agent.sessions.access import AccessTracker, track_access
from pomerium_agent.sessions.entries import SERVICE_ACCOUNT, SESSION
from tests.fakes import session_records as people
from tests.fakes.clock import settle
from tests.fakes.session_records import NOW
from tests.unit.sessions.stage import Stage


async def accessed(stage: Stage, id: str = "s") -> object:
    session = unpack((await stage.backend.get(SESSION, id)).data, session_pb2.Session)
    assert session is not None
    return session.accessed_at.ToJsonString() if session.HasField("accessed_at") else None


async def test_accesses_are_written_every_ten_seconds_and_touch_nothing_else() -> None:
    """A-31."""
    stage = Stage()
    await stage.put(people.session("s", "u", expires=NOW, claims={"a": ["b"]}), people.account("a", "u"))

    async with track_access(stage.backend, stage.clock) as tracker:
        tracker.note("s")
        tracker.note("a", service_account=True)
        tracker.note("gone")
        await stage.clock.advance(9)
        assert await accessed(stage) is None
        await stage.clock.advance(1)

    assert await accessed(stage) == "2030-01-01T00:00:00Z"
    session = unpack((await stage.backend.get(SESSION, "s")).data, session_pb2.Session)
    account = unpack((await stage.backend.get(SERVICE_ACCOUNT, "a")).data, user_pb2.ServiceAccount)
    assert session is not None
    assert account is not None
    assert session.user_id == "u"
    assert session.HasField("expires_at")
    assert account.user_id == "u"
    assert account.HasField("accessed_at")
    assert len(tracker) == 0


async def test_a_session_is_written_once_however_often_it_was_used() -> None:
    """N-39; authenticate 7.5: nothing is written more often than every 10 seconds."""
    stage = Stage()
    await stage.put(people.session("s", "u"))
    before = (await stage.backend.server_info()).latest_record_version

    async with track_access(stage.backend, stage.clock) as tracker:
        for _ in range(100):
            tracker.note("s")
        await stage.clock.advance(20)

    assert (await stage.backend.server_info()).latest_record_version == before + 1


async def test_more_than_fit_are_counted_and_not_kept() -> None:
    """Authorize 21, N-39."""
    stage = Stage()
    await stage.put(*(people.session(f"s{number}") for number in range(250)))
    tracker = AccessTracker(stage.clock, capacity=200)

    for number in range(250):
        tracker.note(f"s{number}")
    tracker.note("s0")
    with capture_logs() as logs:
        await tracker.write(stage.backend)

    assert [(entry["event"], entry["dropped"]) for entry in logs] == [("accesses not tracked", 50)]
    assert await accessed(stage, "s199") is not None
    assert await accessed(stage, "s200") is None
    assert (len(tracker), tracker.dropped) == (0, 0)


async def test_what_an_outage_kept_from_being_written_is_written_later() -> None:
    """Authorize 21."""
    stage = Stage()
    await stage.put(people.session("s"))

    async with track_access(stage.backend, stage.clock) as tracker:
        stage.backend.cut()
        tracker.note("s")
        await stage.clock.advance(10)
        assert len(tracker) == 1
        stage.backend.mend()
        await stage.clock.advance(10)
        assert len(tracker) == 0

    assert await accessed(stage) == "2030-01-01T00:00:00Z"


async def test_an_access_during_the_write_is_not_lost() -> None:
    stage = Stage()
    await stage.put(people.session("s"))

    async with track_access(stage.backend, stage.clock) as tracker:
        stage.backend.hold()
        tracker.note("s")
        await stage.clock.advance(10)
        stage.clock.jump(1)
        tracker.note("s")
        stage.backend.release_reads()
        await settle(60)
        assert len(tracker) == 1


async def test_a_record_that_is_not_what_it_says_does_not_stop_the_others_for_ever() -> None:
    stage = Stage()
    await stage.put(people.record(SESSION, "bad", user_pb2.User(id="bad")), people.session("good"))
    tracker = AccessTracker(stage.clock)

    tracker.note("bad")
    await tracker.write(stage.backend)
    tracker.note("good")
    await tracker.write(stage.backend)

    assert len(tracker) == 0
    assert await accessed(stage, "good") is not None


@pytest.mark.parametrize("seconds", [0, 10])
async def test_closing_leaves_no_task_behind(seconds: float) -> None:
    stage = Stage()
    stage.backend.hold()

    async with track_access(stage.backend, stage.clock, interval=timedelta(seconds=10).total_seconds()) as tracker:
        tracker.note("s")
        await stage.clock.advance(seconds)
