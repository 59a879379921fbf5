"""The identity manager with a real provider on loopback: who stays signed in, and who does not."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest
from aiohttp import web
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pomerium_agent.authenticate.manager import manager as module
from pomerium_agent.authenticate.manager.manager import Manager
from pomerium_agent.authenticate.manager.schedule import Due
from pomerium_agent.authenticate.manager.work import Work
from pomerium_agent.authenticate.site import Site
from pomerium_agent.config.login import Login
from pomerium_agent.idp import Providers, ProviderSettings
from pomerium_agent.pb.pomerium import session_pb2
from pomerium_agent.records import Record, pack, unpack
from pomerium_agent.sessions.access import FIELDS
from pomerium_agent.sessions.entries import SESSION, USER
from pomerium_agent.sessions.identity import resolve
from pomerium_agent.sessions.live import open_sessions
from tests.fakes import session_records as people
from tests.fakes.clock import settle
from tests.fakes.hostile_provider import LEAVE_OUT
from tests.fakes.session_records import NOW
from tests.unit.authenticate.managing import HOURS, STEP, Managing, managing, stateful, until
from tests.unit.idp.scene import scene

HOUR = 3600.0


def refreshes(at: Managing) -> int:
    return sum(asked.form.get("grant_type") == "refresh_token" for asked in at.idp.of("/token"))


async def test_a_session_is_refreshed_before_its_tokens_expire_and_its_user_is_brought_up_to_date() -> None:
    """Authenticate 7.2, 7.3, N-35: tokens, ID token and claims are new; the token's own claims are not merged."""
    async with managing() as at:
        id = await at.log_in()
        before = await at.there(id)
        at.idp.userinfo_changes = {"groups": ["ops"], "name": "Countess Lovelace"}
        at.idp.id_token_changes = {"amr": ["mfa"]}
        async with at.running():
            await at.advance(HOUR - 125)
            assert refreshes(at) == 0
            await at.advance(70)
            assert refreshes(at) == 1

        after, user = await at.there(id), await at.user()
        assert after.oauth_token.access_token != before.oauth_token.access_token
        assert after.oauth_token.refresh_token != before.oauth_token.refresh_token
        assert after.oauth_token.expires_at.seconds > before.oauth_token.expires_at.seconds + 3000
        assert after.id_token.raw != before.id_token.raw
        assert (after.id_token.subject, after.id_token.issuer) == ("ada", at.idp.issuer)
        assert after.id_token.expires_at.seconds > before.id_token.expires_at.seconds + 3000
        assert [value.string_value for value in after.claims["groups"].values] == ["ops"]
        assert [value.string_value for value in after.claims["amr"].values] == ["mfa"]
        for name in ("iss", "sub", "exp", "iat"):
            assert after.claims[name] == before.claims[name]
        assert (after.expires_at, after.audience, after.user_id) == (before.expires_at, before.audience, "ada")
        assert user.name == "Countess Lovelace"
        assert [value.string_value for value in user.claims["groups"].values] == ["ops"]


async def test_a_provider_that_is_down_for_ten_minutes_is_noticed_by_nobody() -> None:
    """G-9, N-36, architecture 7: signed in throughout, and all is well afterwards without a restart."""
    async with managing() as at:
        ids = [await at.log_in() for _ in range(5)]
        async with at.running(), open_sessions(at.backend, at.clock, at.health) as live:
            await at.advance(HOUR - 300)
            with capture_logs() as logs:
                at.idp.fail("/token", 503, "down for maintenance")
                at.idp.fail("/userinfo", 503)
                for _ in range(10):
                    await at.advance(60)
                    assert all(resolve(live, id, at.clock.now()) is not None for id in ids)
                asked = refreshes(at)
                assert 5 * 2 <= asked <= 5 * 12  # again and again, but ever more slowly
                assert "503" in at.error
                assert "sessions wait" in at.error

                at.idp.answers.clear()
                await at.advance(310)
            assert at.error == ""
            assert refreshes(at) == asked + 5
            assert sum(entry["event"] == "health" for entry in logs) == 1  # and not one for each failure
            for id in ids:
                session = await at.there(id)
                assert session.oauth_token.expires_at.ToDatetime(UTC) > at.clock.now()
                assert resolve(live, id, at.clock.now()) is not None
        assert await at.tombstones() == []


@pytest.mark.parametrize(
    "break_it",
    [
        lambda idp: idp.fail("/token", 500, "{}"),
        lambda idp: idp.fail("/token", 502, "<html>"),
        lambda idp: idp.fail("/token", 429, {"error": "slow_down"}),
        lambda idp: idp.fail("/token", 400, {"error": "temporarily_unavailable"}),
        lambda idp: idp.fail("/token", 403, "blocked by a firewall"),
        lambda idp: idp.fail("/token", 200, "not JSON"),
        lambda idp: idp.fail("/token", 401, {"error": "invalid_client"}),  # somebody changed the secret; not the user
    ],
)
async def test_what_may_pass_keeps_the_session_and_is_tried_again(break_it: Callable[[object], None]) -> None:
    """N-36."""
    async with managing() as at:
        id = await at.log_in()
        break_it(at.idp)
        async with at.running():
            await at.advance(HOUR - 30)
            first = refreshes(at)
            assert first >= 1
            assert at.error
            await at.advance(600)
            assert refreshes(at) > first
            at.idp.answers.clear()
            await at.advance(310)
            assert at.error == ""
        assert (await at.there(id)).oauth_token.expires_at.ToDatetime(UTC) > at.clock.now()


async def test_a_provider_that_cannot_be_reached_keeps_the_session() -> None:
    """N-36: connection refused, here at discovery."""
    async with managing() as at:
        nobody = replace(at.scene.settings, url="http://127.0.0.1:1", id="nobody")
        at.site.set(stateful(nobody))
        await at.backend.put([_ada("s", idp_id="nobody", token_expires=NOW + HOURS)])
        async with at.running():
            await at.advance(2 * HOUR, step=30)
            assert "cannot reach" in at.error
            assert await at.session("s") is not None
            await at.advance(12 * HOUR, step=600)
            await at.advance(30)  # a try just before the end is followed by the cool-off
        assert await at.session("s") is None  # no backoff outlives the session's own end
        assert at.error == ""


@pytest.mark.parametrize("code", ["invalid_grant", "interaction_required", "login_required"])
async def test_a_grant_that_is_over_ends_the_session_and_leaves_a_tombstone(code: str) -> None:
    """N-36, N-38: the tombstone says whose session it was, and the next request is a stranger's."""
    async with managing() as at:
        id, other = await at.log_in(), await at.log_in(2 * HOURS)
        async with at.running(), open_sessions(at.backend, at.clock, at.health) as live:
            await at.advance(HOUR - 300)
            assert resolve(live, id, at.clock.now()) is not None
            at.idp.fail("/token", 400, {"error": code, "error_description": "the user was dismissed"})
            await at.advance(300)
            assert live.session(id) is None
            assert resolve(live, id, at.clock.now()) is None
        buried = {record.id: unpack(record.data, session_pb2.Session) for record in await at.tombstones()}
        assert set(buried) == {id, other}
        assert all(session is not None and session.user_id == "ada" for session in buried.values())
        assert at.error == ""


@pytest.mark.parametrize("changes", [{"sub": "mallory"}, {"aud": "another"}, {"iss": "https://evil.example.com"}])
async def test_an_answer_that_cannot_be_believed_ends_the_session(changes: dict[str, str]) -> None:
    """N-32, authenticate 7.3: fail closed."""
    async with managing() as at:
        id = await at.log_in()
        at.idp.id_token_changes = changes
        async with at.running():
            await at.advance(HOUR)
        assert await at.session(id) is None


@pytest.mark.parametrize(
    "site",
    [
        Site(),
        Site(login=Login(provider=ProviderSettings(type="oidc", id="idp")), providers={"idp": ProviderSettings()}),
        stateful(ProviderSettings(type="oidc", id="another")),
    ],
)
async def test_without_a_provider_to_ask_a_session_ends_at_its_own_time(site: Site) -> None:
    """N-37: stateless flow, no configuration yet, an unknown provider. Nothing is deleted for the sake of tokens."""
    async with managing() as at:
        id = await at.log_in(8 * HOURS)
        at.site.set(site)
        async with at.running():
            await at.advance(8 * HOUR - 1, step=600)
            assert await at.session(id) is not None
            await at.advance(2)
            assert await at.session(id) is None
        assert [record.id for record in await at.tombstones()] == [id]
        assert refreshes(at) == 0


async def test_a_session_that_cannot_or_must_not_be_refreshed_ends_at_its_own_time() -> None:
    """N-37, 7.3: no refresh token, refreshing forbidden, no token at all."""
    async with managing() as at:
        at.idp.access_tokens.add("access-0")
        await at.backend.put(
            [
                _ada("no-refresh-token", refresh=""),
                _ada("forbidden", refresh_disabled=True),
                people.session("none", "ada", expires=NOW + 3 * HOURS, idp_id="idp"),
            ]
        )
        async with at.running():
            await at.advance(3 * HOUR - 5, step=60)
            assert await at.tombstones() == []
            assert refreshes(at) == 0


async def test_expired_sessions_are_removed_also_those_that_were_there_before() -> None:
    """N-38; authenticate 7.3."""
    async with managing() as at:
        await at.backend.put([people.session("old", "ada", expires=NOW - HOURS), people.session("for ever", "ada")])
        async with at.running():
            await at.advance(10)
        assert [record.id for record in await at.tombstones()] == ["old"]
        assert await at.session("for ever") is not None


async def test_what_others_write_during_a_refresh_is_not_lost() -> None:
    """Only oauth_token, id_token and claims are patched: an access noted meanwhile stays (authenticate 7.3, 7.5)."""
    async with managing() as at:
        id = await at.log_in()
        asked, go_on = _held(at)
        async with at.running():
            await at.clock.advance(HOUR - 60)
            await asyncio.wait_for(asked.wait(), 10)
            message = session_pb2.Session(id=id, accessed_at=Timestamp(seconds=4_000_000_000))
            await at.backend.patch([Record(type=SESSION, id=id, data=pack(message))], FIELDS)
            go_on.set()
            await at.idle()
        session = await at.there(id)
        assert session.accessed_at.seconds == 4_000_000_000
        assert session.oauth_token.access_token == "access-2"


async def test_a_session_that_ends_during_its_refresh_stays_ended() -> None:
    async with managing() as at:
        id = await at.log_in()
        asked, go_on = _held(at)
        async with at.running() as manager:
            await at.clock.advance(HOUR - 60)
            await asyncio.wait_for(asked.wait(), 10)
            await at.backend.put([(await at.backend.get(SESSION, id)).as_deleted(at.clock.now())])
            await settle(60)
            go_on.set()
            await at.idle()
            assert len(manager) == 0
        assert await at.session(id) is None


async def test_a_session_that_ends_and_begins_anew_during_its_refresh_is_not_forgotten() -> None:
    async with managing() as at:
        id = await at.log_in()
        asked, go_on = _held(at)
        async with at.running():
            await at.clock.advance(HOUR - 60)
            await asyncio.wait_for(asked.wait(), 10)
            record = await at.backend.get(SESSION, id)
            await at.backend.put([record.as_deleted(at.clock.now())])
            await at.backend.put([_ada(id, expires=at.clock.now() + HOURS)])
            await settle(60)
            go_on.set()
            await at.idle()
            assert await at.session(id) is not None
            await at.advance(HOUR, step=60)
            await at.advance(STEP)
        assert await at.session(id) is None


async def test_an_old_refresh_token_does_not_end_a_session_that_has_a_new_one() -> None:
    """The answer is about what was asked with, and another may have refreshed the session meanwhile."""
    async with managing() as at:
        id = await at.log_in()
        asked, go_on = _held(at, then=lambda: web.json_response({"error": "invalid_grant"}, status=400))
        async with at.running():
            await at.clock.advance(HOUR - 60)
            await asyncio.wait_for(asked.wait(), 10)
            session = await at.there(id)
            session.oauth_token.refresh_token = "newer"
            session.oauth_token.expires_at.FromDatetime(at.clock.now() + HOURS)
            await at.backend.put([Record(type=SESSION, id=id, data=pack(session))])
            go_on.set()
            await at.idle()
        assert (await at.there(id)).oauth_token.refresh_token == "newer"


async def test_tokens_that_the_provider_replaced_survive_an_outage_of_the_store() -> None:
    """The old refresh token is void as soon as the provider has answered, so the new one must be written some time."""
    async with managing() as at:
        id = await at.log_in()
        asked, go_on = _held(at)
        async with at.running() as manager:
            await at.clock.advance(HOUR - 60)
            await asyncio.wait_for(asked.wait(), 10)
            at.backend.cut()
            go_on.set()
            await until(lambda: _answered(at))
            await at.clock.advance(30)
            assert manager.busy
            at.backend.mend()
            async with asyncio.timeout(10):
                while manager.busy:
                    await at.clock.advance(5)
                    await asyncio.sleep(0.01)
        assert (await at.there(id)).oauth_token.access_token == "access-2"


async def test_tokens_that_the_provider_replaced_are_written_also_when_we_are_told_to_stop() -> None:
    async with managing() as at:
        id = await at.log_in()
        async with at.running():
            asked, go_on = _held(at)
            await at.clock.advance(HOUR - 60)
            await asyncio.wait_for(asked.wait(), 10)
            at.backend.hold()
            go_on.set()
            await until(lambda: _answered(at))
            await asyncio.sleep(0.05)
            at.backend.release_reads()
        assert (await at.there(id)).oauth_token.access_token == "access-2"


async def test_no_id_token_on_refresh_keeps_the_session_and_is_no_reason_to_ask_again_and_again() -> None:
    """Authenticate 6.1, 7.2."""
    async with managing() as at:
        id = await at.log_in()
        before = await at.there(id)
        at.idp.token_changes = {"id_token": LEAVE_OUT}
        async with at.running():
            await at.advance(HOUR)
            assert refreshes(at) == 1
            await at.advance(600)
            assert refreshes(at) == 1
            session = await at.there(id)
            assert session.id_token.raw == before.id_token.raw
            assert session.oauth_token.access_token == "access-2"
            await at.advance(HOUR, step=30)
            assert refreshes(at) == 2


async def test_the_id_token_does_not_matter_where_that_is_configured() -> None:
    """N-35: flag off."""
    async with managing() as at:
        at.idp.token_changes = {"expires_in": 5 * HOUR}
        id = await at.log_in()
        at.site.set(stateful(at.scene.settings, ends_with_id_token=False))
        async with at.running():
            await at.advance(2 * HOUR, step=60)
            assert refreshes(at) == 0
            at.site.set(stateful(at.scene.settings))
            await settle()
            await at.advance(20)
            assert refreshes(at) == 1
        assert await at.session(id) is not None


async def test_userinfo_is_asked_every_ten_minutes_and_writes_nothing_but_the_user() -> None:
    """Authenticate 7.1, 7.3: and of the user only what a provider says."""
    async with managing() as at:
        id = await at.log_in()
        user = await at.user()
        user.device_credential_ids.append("key")
        await at.backend.put([Record(type=USER, id="ada", data=pack(user))])
        before = await at.there(id)
        at.idp.userinfo_changes = {"email": "new@example.com", "groups": ["ops"]}
        asked = len(at.idp.of("/userinfo"))
        async with at.running():
            await at.advance(600)
            assert len(at.idp.of("/userinfo")) in (asked + 1, asked + 2)
            await at.advance(1800)
            assert asked + 3 <= len(at.idp.of("/userinfo")) <= asked + 5
        after = await at.user()
        assert (after.email, list(after.device_credential_ids)) == ("new@example.com", ["key"])
        assert [value.string_value for value in after.claims["groups"].values] == ["ops"]
        assert after.claims["sub"] == user.claims["sub"]
        assert await at.there(id) == before


@pytest.mark.parametrize("document", [{"userinfo_endpoint": LEAVE_OUT}, {}])
async def test_a_provider_without_userinfo_or_that_refuses_it_keeps_its_sessions(document: dict[str, object]) -> None:
    """Authenticate 7.3, against the reference, which ends them."""
    async with managing() as at:
        id = await at.log_in()
        at.idp.document_changes = document
        at.idp.fail("/userinfo", 403, {"error": "insufficient_scope"})
        async with at.running():
            await at.advance(1800)
        assert await at.session(id) is not None


async def test_an_access_token_that_userinfo_does_not_take_is_refreshed_and_only_then_believed_to_be_over() -> None:
    """Authenticate 7.3: 401 at userinfo may mean that the user was dismissed, or only that the token is old."""
    async with managing() as at:
        id = await at.log_in()
        at.idp.access_tokens.clear()
        async with at.running():
            await at.advance(650)
            assert refreshes(at) == 1
            assert (await at.there(id)).oauth_token.access_token == "access-2"
            at.idp.access_tokens.clear()
            at.idp.refresh_tokens.clear()
            await at.advance(650)
        assert await at.session(id) is None


async def test_userinfo_about_another_person_ends_the_session() -> None:
    """N-32."""
    async with managing() as at:
        id = await at.log_in()
        at.idp.userinfo_changes = {"sub": "mallory", "email": "mallory@example.com"}
        async with at.running():
            await at.advance(650)
        assert await at.session(id) is None
        assert (await at.user()).email == "ada@userinfo.example"


async def test_a_provider_that_says_nothing_keeps_nobody_else_waiting() -> None:
    """Each provider has a lane of its own, of bounded width."""
    async with managing() as at, scene("oidc", id="slow").open() as slow:
        slow_settings = replace(slow.settings, id="slow")
        await at.backend.put(
            [_ada(f"slow-{n}", idp_id="slow", token_expires=NOW + timedelta(minutes=5)) for n in range(40)]
        )
        waits = 0

        async def stalled(_: web.Request) -> web.Response:
            nonlocal waits
            waits += 1
            await asyncio.Event().wait()
            raise AssertionError

        slow.idp.answers["/token"] = stalled
        id = await at.log_in()
        at.site.set(stateful(at.scene.settings, slow_settings))
        async with at.running():
            await at.clock.advance(HOUR - 60)
            await until(lambda: refreshes(at) == 1)
            await until(lambda: waits > 0)
            await asyncio.sleep(0.1)
            assert waits <= module.WIDTH
        assert (await at.there(id)).oauth_token.access_token == "access-2"


async def test_sessions_from_before_the_configuration_are_refreshed_once_it_is_there() -> None:
    async with managing() as at:
        await at.backend.put([_ada("s", token_expires=NOW + timedelta(minutes=5))])
        site = at.site.value
        at.site.set(Site())
        async with at.running():
            await at.advance(600)
            assert refreshes(at) == 0
            at.site.set(site)
            await settle()
            await at.advance(15)
            assert refreshes(at) == 1


async def test_github_needs_no_refresh_token() -> None:
    """Authenticate 6.2: refresh is no call; a token that is said to expire is prolonged."""
    async with managing("github") as at:
        await at.backend.put([_ada("s", refresh="", token_expires=NOW + timedelta(minutes=5))])
        async with at.running():
            await at.advance(300)
        session = await at.there("s")
        assert session.oauth_token.expires_at.ToDatetime(UTC) >= at.clock.now() + timedelta(minutes=55)
        assert session.oauth_token.access_token == "access-0"


async def test_nothing_secret_is_logged_or_reported() -> None:
    """N-33."""
    async with managing() as at:
        await at.log_in()
        at.idp.fail("/token", 503)
        secrets: set[str] = set()
        with capture_logs() as logs:
            async with at.running():
                await at.advance(HOUR)
                secrets |= at.idp.access_tokens | at.idp.refresh_tokens | {at.idp.secret}
                said = at.error
                at.idp.fail("/token", 400, {"error": "invalid_grant", "error_description": "refresh-1 access-1"})
                await at.advance(310)
        assert any(entry["event"] == "session ended" for entry in logs)
        text = json.dumps(logs, default=str) + said
        assert [secret for secret in secrets if f"{secret} " in text or f'{secret}"' in text] == []


async def test_the_store_may_go_and_come_back() -> None:
    """What happened meanwhile is caught up with."""
    async with managing() as at:
        id = await at.log_in()
        async with at.running() as manager:
            at.backend.cut()
            await at.advance(60)
            at.backend.mend()
            await at.backend.put([_ada("new", token_expires=NOW + timedelta(minutes=10))])
            await at.advance(30)
            assert len(manager) == 2
            await at.backend.clear()
            await at.advance(30)
            assert len(manager) == 0
        assert await at.session(id) is None


async def test_many_sessions_cost_one_entry_each_however_often_they_are_used() -> None:
    async with managing() as at:
        await at.backend.put([people.session(f"s{n}", f"u{n % 50}", expires=NOW + HOURS) for n in range(1000)])
        async with at.running() as manager:
            for _ in range(5):
                message = session_pb2.Session(accessed_at=Timestamp(seconds=4_000_000_000))
                await at.backend.patch(
                    [Record(type=SESSION, id=f"s{n}", data=pack(message)) for n in range(1000)], FIELDS
                )
                await at.advance(10)
            assert len(manager) == 1000
            assert len(manager.schedule) == 1000 + 50
            assert manager.schedule.entries <= 2 * 1050 + 64


def _answered(at: Managing) -> bool:
    """Whether the agent has the new tokens: it asks with them."""
    return any(asked.authorization == "Bearer access-2" for asked in at.idp.of("/userinfo"))


STEPS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["u", "v"]), st.none() | st.integers(1, 30))
    | st.just("time")
    | st.just("clear")
    | st.just("outage"),
    max_size=30,
)


@settings(max_examples=40)
@given(steps=STEPS)
def test_whatever_is_written_every_session_with_an_end_is_planned_and_no_other(
    steps: list[tuple[str, str, int | None] | str],
) -> None:
    """No lost session; N-37, N-38: after each history, and at the end of time none is left."""

    async def check() -> None:
        at = Managing(scene("oidc", id="idp"))
        at.site.set(Site())
        ends: dict[str, tuple[str, datetime]] = {}
        work = Work(backend=at.backend, site=at.site, providers=Providers(cast(Any, None), at.clock), clock=at.clock)
        manager = Manager(backend=at.backend, site=at.site, clock=at.clock, health=at.health, work=work)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(manager.run())
            for step in steps:
                if step == "time":
                    await at.clock.advance(11)
                elif step == "clear":
                    await at.backend.clear()
                    ends.clear()
                elif step == "outage":
                    at.backend.cut()
                    await settle(40)
                    at.backend.mend()
                elif isinstance(step, tuple):
                    id, user, minutes = step
                    record = people.session(id, user, expires=at.clock.now() + timedelta(minutes=minutes or 1))
                    if minutes is None:
                        await at.backend.put([record.as_deleted(at.clock.now())])
                        ends.pop(id, None)
                    else:
                        await at.backend.put([record])
                        ends[id] = user, at.clock.now() + timedelta(minutes=minutes)
            await at.clock.advance(20)
            ends = {id: (user, end) for id, (user, end) in ends.items() if end > at.clock.now()}
            planned = {id: manager.schedule.time_of(Due("session", id)) for id in "abcd"}
            assert {id: time for id, time in planned.items() if time} == {
                id: end.timestamp() for id, (_, end) in ends.items()
            }
            users = {user for user in "uv" if manager.schedule.time_of(Due("user", user))}
            assert users == {user for user, _ in ends.values()}
            await at.clock.advance(3600)
            assert (len(manager), len(manager.schedule), manager.busy) == (0, 0, 0)
            task.cancel()
        assert (await at.backend.query(SESSION, limit=0)).total_count == 0

    asyncio.run(check())


def _ada(id: str, **fields: object) -> Record:
    usual: dict[str, object] = {
        "expires": NOW + 14 * HOURS,
        "token": "access-0",
        "token_expires": NOW + HOURS,
        "refresh": "refresh-0",
        "idp_id": "idp",
    }
    return people.session(id, "ada", **{**usual, **fields})  # type: ignore[arg-type]


def _held(at: Managing, then: Callable[[], web.Response] | None = None) -> tuple[asyncio.Event, asyncio.Event]:
    """The token endpoint waits with its answer; the events: it was asked, it may answer."""
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.set()
        await go_on.wait()
        del at.idp.answers["/token"]
        return then() if then is not None else at.idp._token(at.idp.of("/token")[-1])

    at.idp.answers["/token"] = answer
    return asked, go_on
