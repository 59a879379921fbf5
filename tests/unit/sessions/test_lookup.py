"""From a request's headers to a session: which handle counts."""

import pytest

from pomerium_agent.errors import DatabrokerUnavailable
from pomerium_agent.sessions.handle import Handle, HandleReader, sign_handle
from pomerium_agent.sessions.live import Sessions
from pomerium_agent.sessions.lookup import SignedIn, find_session
from pomerium_agent.sessions.sources import Source, find_handles
from tests.fakes import session_records as people
from tests.unit.sessions.stage import Stage, handle

KEY = bytes(range(32))
GARBAGE = "garbage"


def token(id: str, idp_id: str = "") -> str:
    return sign_handle(Handle(id=id, idp_id=idp_id), KEY)


async def find(stage: Stage, sessions: Sessions, *, first_only: bool = False, **carried: str) -> SignedIn | None:
    headers = [("cookie", f"_pomerium={carried['cookie']}")] if "cookie" in carried else []
    headers += [("x-pomerium-authorization", carried["header"])] if "header" in carried else []
    presented = find_handles(headers, carried.get("query", ""), cookie_name="_pomerium")
    return await find_session(
        presented,
        reader=HandleReader([KEY]),
        sessions=sessions,
        clock=stage.clock,
        idp_id="idp",
        first_only=first_only,
        timeout=0.05,
    )


async def source(stage: Stage, sessions: Sessions, *, first_only: bool = False, **carried: str) -> Source | None:
    found = await find(stage, sessions, first_only=first_only, **carried)
    return found.source if found else None


async def test_each_source_leads_to_the_session() -> None:
    """A-5, A-7."""
    stage = Stage()
    await stage.put(people.session("s", "u"))

    async with stage.sessions() as sessions:
        assert await source(stage, sessions) is None
        assert await source(stage, sessions, cookie=token("s")) is Source.COOKIE
        assert await source(stage, sessions, header=token("s")) is Source.HEADER
        assert await source(stage, sessions, query=f"pomerium_session={token('s')}") is Source.QUERY
        found = await find(stage, sessions, cookie=token("s"))

    assert found is not None
    assert (found.handle.id, found.resolved.user_id) == ("s", "u")


@pytest.mark.parametrize("bad", [GARBAGE, token("gone"), token("s", "another idp")])
async def test_a_bad_cookie_does_not_hide_a_good_header(bad: str) -> None:
    """W3; the reference's way is one switch away."""
    stage = Stage()
    await stage.put(people.session("s", "u"))

    async with stage.sessions() as sessions:
        assert await source(stage, sessions, cookie=bad, header=token("s")) is Source.HEADER
        assert await source(stage, sessions, cookie=bad, header=token("s"), first_only=True) is None


async def test_a_handle_counts_only_with_the_provider_of_the_route_unless_it_names_none() -> None:
    """A-6."""
    stage = Stage()
    await stage.put(people.session("s", "u"), people.account("a", "u"))

    async with stage.sessions() as sessions:
        assert await source(stage, sessions, cookie=token("s", "idp")) is Source.COOKIE
        assert await source(stage, sessions, cookie=token("s", "other")) is None
        assert await source(stage, sessions, header=token("a")) is Source.HEADER


async def test_a_fresh_login_is_let_in_and_a_deleted_session_is_not() -> None:
    """A-7, A-32."""
    stage = Stage()

    async with stage.sessions() as sessions:
        stage.backend.lag()
        fresh = sign_handle(handle("s", await stage.put(people.session("s", "u"))), KEY)
        assert await source(stage, sessions, cookie=fresh) is Source.COOKIE
        stage.backend.flow()
        await stage.put(people.gone(people.session("s")))
        assert await source(stage, sessions, cookie=fresh) is None


async def test_an_outage_is_not_taken_for_an_absent_session() -> None:
    """A-8."""
    stage = Stage()
    stage.backend.cut()

    async with stage.sessions() as sessions:
        with pytest.raises(DatabrokerUnavailable):
            await source(stage, sessions, cookie=token("s"))
        assert await source(stage, sessions, cookie=GARBAGE) is None
