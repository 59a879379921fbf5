"""Service accounts that a replica remembers for a control plane that is away: known, never stored, and taken back."""

from datetime import timedelta

from pomerium_agent.records import Record
from pomerium_agent.sessions.identity import resolve
from tests.fakes import session_records as people
from tests.unit.sessions.stage import Stage, handle

ROBOT: tuple[Record, ...] = (
    people.account("robot", "u"),
    people.directory_user("u", email="robot@x", group_ids=["g"]),
    people.directory_group("g", "Robots"),
)


async def test_what_is_lent_counts_until_it_is_taken_back_and_is_never_stored() -> None:
    """Architecture 4.4: what was revoked meanwhile would stay in the store."""
    stage = Stage()

    async with stage.sessions() as sessions:
        assert sessions.version_of("robot") == 0
        sessions.lend(ROBOT, stage.clock.now())
        lent = resolve(sessions, handle("robot"), stage.clock.now())
        assert lent is not None
        assert (lent.email, lent.group_names) == ("robot@x", {"g": "Robots"})
        assert lent.version == sessions.version_of("robot") > 0
        assert (await stage.backend.latest())[1] == ()

        await sessions.take_back()

        assert resolve(sessions, handle("robot"), stage.clock.now()) is None
        assert sessions.version_of("robot") == 0
        sessions.lend(ROBOT, stage.clock.now())
        assert sessions.version_of("robot") > lent.version


async def test_the_stores_own_come_first() -> None:
    """And once it is taken back, nothing of it shines through; a version is never used twice."""
    stage = Stage()

    async with stage.sessions() as sessions:
        sessions.lend(ROBOT, stage.clock.now())
        versions = [sessions.version_of("robot")]
        await stage.put(people.account("robot", "v"))
        versions.append(sessions.version_of("robot"))
        resolved = resolve(sessions, "robot", stage.clock.now())
        assert resolved is not None
        assert (resolved.user_id, resolved.email) == ("v", "")

        await stage.put(people.account("robot", "u"))
        versions.append(sessions.version_of("robot"))
        await sessions.take_back()
        versions.append(sessions.version_of("robot"))
        without = resolve(sessions, "robot", stage.clock.now())

        assert without is not None
        assert (without.user_id, without.identity.groups) == ("u", None)
        assert len(set(versions)) == len(versions)


async def test_a_session_cannot_be_lent() -> None:
    """People sign out, and a copy on disk would not know."""
    stage = Stage()

    async with stage.sessions() as sessions:
        sessions.lend([people.session("s", "u"), people.user("u", "u@x")], stage.clock.now())

        assert sessions.session("s") is None
        assert sessions.user("u") is None


async def test_an_expired_account_is_not_lent_and_one_that_expires_ends() -> None:
    """Authorize 5."""
    stage = Stage()
    soon = stage.clock.now() + timedelta(seconds=10)

    async with stage.sessions() as sessions:
        sessions.lend(
            [people.account("soon", "u", expires=soon), people.account("past", "u", expires=people.NOW)],
            stage.clock.now() + timedelta(seconds=1),
        )

        assert sessions.service_account("past") is None
        assert resolve(sessions, "soon", soon) is not None
        assert resolve(sessions, "soon", soon + timedelta(seconds=1)) is None


async def test_what_the_store_has_is_known_past_the_log_when_it_is_taken_back() -> None:
    """So that no request fails between the end of the loan and the next change that arrives."""
    stage = Stage()

    async with stage.sessions() as sessions:
        sessions.lend((*ROBOT, people.account("revoked", "u")), stage.clock.now())
        stage.backend.lag()
        await stage.put(*ROBOT)

        await sessions.take_back()

        assert sessions.service_account("robot") is not None
        assert sessions.directory_group("g") is not None
        assert sessions.service_account("revoked") is None


async def test_a_lent_account_needs_no_store_and_without_one_the_loan_still_ends() -> None:
    """Its handle has no hint, so that nothing is to be waited for; who is not lent is not known to be absent (A-8)."""
    stage = Stage()
    stage.backend.cut()

    async with stage.sessions() as sessions:
        sessions.lend(ROBOT, stage.clock.now())
        assert sessions.is_ready_for(handle("robot"))
        assert not sessions.is_ready_for(handle("s"))

        await sessions.take_back()

        assert not sessions.is_ready_for(handle("robot"))
        assert sessions.service_account("robot") is None
