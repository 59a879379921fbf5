"""Ending sessions: tombstones, repetition, and who is a stranger afterwards."""

from collections.abc import Callable

import pytest

from pomerium_agent.errors import DatabrokerUnavailable
from pomerium_agent.pb.pomerium import session_pb2, user_pb2
from pomerium_agent.records import Cursor, unpack
from pomerium_agent.sessions.entries import SESSION
from pomerium_agent.sessions.identity import resolve
from pomerium_agent.sessions.revoke import revoke_sessions, revoke_sessions_where
from tests.fakes import session_records as people
from tests.fakes.clock import settle
from tests.fakes.session_records import NOW
from tests.unit.sessions.stage import Stage


def of_user(id: str) -> Callable[[session_pb2.Session], bool]:
    return lambda session: session.user_id == id


async def test_a_revoked_session_is_a_strangers_and_its_tombstone_says_whose_it_was() -> None:
    """N-38, N-40."""
    stage = Stage()
    await stage.put(people.session("s", "u", idp_id="idp", token="t"), people.session("other", "u"))
    async with stage.sessions() as live:
        assert resolve(live, "s", NOW) is not None

        revoked = await revoke_sessions(stage.backend, ["s", "s", "never"], now=NOW)
        await settle()

        assert revoked == (("s", "u", "idp"),)
        assert resolve(live, "s", NOW) is None
        assert resolve(live, "other", NOW) is not None
    start = Cursor((await stage.backend.server_info()).server_version, 0)
    tombstones = [record async for record in stage.backend.changes(start, SESSION, wait=False) if record.deleted]
    assert [record.id for record in tombstones] == ["s"]
    session = unpack(tombstones[0].data, session_pb2.Session)
    assert session is not None
    assert (session.id, session.user_id) == ("s", "u")


async def test_revoking_again_does_nothing_and_writes_nothing() -> None:
    stage = Stage()
    await stage.put(people.session("s", "u"))
    await revoke_sessions(stage.backend, ["s"], now=NOW)
    before = await stage.backend.server_info()

    assert await revoke_sessions(stage.backend, ["s"], now=NOW) == ()
    assert await revoke_sessions_where(stage.backend, of_user("u"), now=NOW) == ()
    assert await stage.backend.server_info() == before


async def test_all_sessions_of_a_user_end_and_no_others() -> None:
    stage = Stage()
    await stage.put(*(people.session(f"s{number:03}", f"u{number % 2}") for number in range(450)))

    revoked = await revoke_sessions_where(stage.backend, of_user("u1"), now=NOW)

    assert {each.user_id for each in revoked} == {"u1"}
    assert len(revoked) == 225
    assert (await stage.backend.query(SESSION, limit=0)).total_count == 225


async def test_sessions_can_be_picked_by_what_they_hold() -> None:
    """As a provider's logout does, by `sid`."""
    stage = Stage()
    await stage.put(
        people.session("a", "u", claims={"sid": ["1"]}),
        people.session("b", "u", claims={"sid": ["2"]}),
        people.record(SESSION, "unreadable", user_pb2.User(id="u")),
    )

    def of_sid(session: session_pb2.Session) -> bool:
        return any(value.string_value == "2" for value in session.claims["sid"].values)

    assert [each.id for each in await revoke_sessions_where(stage.backend, of_sid, now=NOW)] == ["b"]
    assert [each.id for each in await revoke_sessions(stage.backend, ["unreadable"], now=NOW)] == ["unreadable"]


async def test_a_store_that_cannot_be_reached_is_no_success() -> None:
    stage = Stage()
    await stage.put(people.session("s", "u"))
    stage.backend.cut()

    with pytest.raises(DatabrokerUnavailable):
        await revoke_sessions(stage.backend, ["s"], now=NOW)
    with pytest.raises(DatabrokerUnavailable):
        await revoke_sessions_where(stage.backend, of_user("u"), now=NOW)
