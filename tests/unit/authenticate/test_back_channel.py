"""The provider says that somebody is logged out there: who ends, and whose word counts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from joserfc.jwk import OctKey

from pomerium_agent.errors import RecordNotFound
from tests.fakes import session_records as records
from tests.fakes.hostile_provider import LEAVE_OUT, HostileProvider
from tests.unit.authenticate.stage import APP, AUTH, Answer, Scene, hosted, scene

URL = f"https://{AUTH}/.pomerium/backchannel_logout"
EVENTS: dict[str, Any] = {"http://schemas.openid.net/event/backchannel-logout": {}}
EVERYBODY = ("ada-1", "ada-2", "ada-bare", "ada-elsewhere", "grace")


@asynccontextmanager
async def people(tmp_path: Path) -> AsyncIterator[Scene]:
    """Ada in two browsers, once without a `sid`, and with another provider; Grace."""
    async with scene(tmp_path) as stage:
        here = stage.idp_id
        await stage.store.put(
            [
                records.session("ada-1", "ada", claims={"sub": ["ada"], "sid": ["s1"]}, idp_id=here),
                records.session("ada-2", "ada", claims={"sub": ["ada"], "sid": ["s2"]}, idp_id=here),
                records.session("ada-bare", "ada", claims={"sub": ["ada"]}, idp_id=here),
                records.session("ada-elsewhere", "ada", claims={"sub": ["ada"], "sid": ["s1"]}, idp_id="other"),
                records.session("grace", "grace", claims={"sub": ["grace"], "sid": ["s3"]}, idp_id=here),
            ]
        )
        yield stage


def token(stage: Scene, **changes: Any) -> str:
    given = {"jti": "j1", "events": EVENTS, "email": LEAVE_OUT, "given_name": LEAVE_OUT, **changes}
    return stage.idp.token(**given)


async def tell(stage: Scene, raw: str, **more: str) -> Answer:
    form = urlencode({"logout_token": raw, **more})
    return await stage.browser.get(URL, method="POST", data=form, Content_Type="application/x-www-form-urlencoded")


async def left(stage: Scene) -> set[str]:
    found = set()
    for id in EVERYBODY:
        try:
            await stage.store.session(id)
        except RecordNotFound:
            continue
        found.add(id)
    return found


@pytest.mark.parametrize(
    ("changes", "ended"),
    [
        ({"sid": "s1", "sub": LEAVE_OUT}, {"ada-1"}),
        ({"sid": "s1"}, {"ada-1", "ada-bare"}),  # one that does not say which it is may be the one
        ({}, {"ada-1", "ada-2", "ada-bare"}),
        ({"sub": "grace"}, {"grace"}),
        ({"sub": "nobody"}, set()),
        ({"sid": "s9", "sub": LEAVE_OUT}, set()),
        ({"exp": LEAVE_OUT, "sub": "grace"}, {"grace"}),
    ],
)
async def test_exactly_those_sessions_end_that_the_token_names(
    tmp_path: Path, changes: dict[str, Any], ended: set[str]
) -> None:
    """Back-Channel Logout 2.6, 2.7; of this provider only. N-38: tombstones say whose they were."""
    async with people(tmp_path) as stage:
        answer = await tell(stage, token(stage, **changes))

        assert (answer.status, answer.text, answer.headers["Cache-Control"]) == (200, "", "no-store")
        assert set(EVERYBODY) - await left(stage) == ended
        if ended:
            assert all(record.data is not None for record in stage.store.puts[-1])


BAD: list[dict[str, Any]] = [
    {"aud": "another-client"},
    {"aud": ["client", "another"]},
    {"iss": "https://evil.example"},
    {"nonce": "n"},
    {"events": LEAVE_OUT},
    {"events": {}},
    {"events": {"http://schemas.openid.net/event/backchannel-logout": "yes"}},
    {"jti": LEAVE_OUT},
    {"sub": LEAVE_OUT},
    {"iat": LEAVE_OUT},
    {"iat": 1_000_000_000},
    {"exp": 1_000_000_000},
    {"iat": 4_000_000_000},
    {"sub": 7},
]


@pytest.mark.parametrize("changes", BAD)
async def test_a_token_that_is_not_good_does_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    """And nothing of what was wrong is told to strangers."""
    async with people(tmp_path) as stage:
        answer = await tell(stage, token(stage, **changes))
        assert answer.status == 400
        assert answer.text == '{"error": "invalid_request", "error_description": "the logout token is not good"}'
        assert await left(stage) == set(EVERYBODY)


@pytest.mark.parametrize("alg", ["none", "HS256"])
async def test_a_token_that_anybody_could_have_made_does_nothing(tmp_path: Path, alg: str) -> None:
    async with people(tmp_path) as stage:
        stage.idp.alg = alg
        if alg == "HS256":
            stage.idp.header_changes["kid"] = LEAVE_OUT
            stage.idp.key = OctKey.import_key(stage.idp.secret.encode() * 4)  # as if the secret were a key of theirs
        assert (await tell(stage, token(stage))).status == 400
        assert await left(stage) == set(EVERYBODY)


async def test_an_id_token_logs_nobody_out(tmp_path: Path) -> None:
    async with people(tmp_path) as stage:
        assert (await tell(stage, stage.idp.token())).status == 400
        assert await left(stage) == set(EVERYBODY)


async def test_a_token_of_another_provider_logs_nobody_out(tmp_path: Path) -> None:
    async with people(tmp_path) as stage, HostileProvider(stage.clock).serve() as other:
        raw = other.token(jti="j", events=EVENTS)
        assert (await tell(stage, raw)).status == 400
        assert await left(stage) == set(EVERYBODY)


async def test_a_token_counts_once(tmp_path: Path) -> None:
    """Otherwise whoever gets hold of one could end later sessions with it."""
    async with people(tmp_path) as stage:
        raw = token(stage, sub="grace")
        assert (await tell(stage, raw)).status == 200
        await stage.store.put([records.session("grace", "grace", claims={"sub": ["grace"]}, idp_id=stage.idp_id)])
        again = await asyncio.gather(*(tell(stage, raw) for _ in range(3)))
        assert [answer.status for answer in again] == [400, 400, 400]
        assert "grace" in await left(stage)


async def test_a_logout_that_could_not_be_kept_may_be_told_again(tmp_path: Path) -> None:
    """N-38: the provider is not told that it is done, and the same token counts when the store is back."""
    async with people(tmp_path) as stage:
        raw = token(stage, sub="grace")
        stage.store.refuses_writes = True
        assert (await tell(stage, raw)).status == 500
        stage.store.refuses_writes = False
        assert (await tell(stage, raw)).status == 200
        assert "grace" not in await left(stage)


async def test_a_provider_whose_keys_cannot_be_had_is_asked_to_try_again(tmp_path: Path) -> None:
    """N-36: an outage is no verdict."""
    async with people(tmp_path) as stage:
        stage.idp.fail("keys", 503)
        answer = await tell(stage, token(stage))
        assert answer.status == 503
        assert await left(stage) == set(EVERYBODY)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "application/x-www-form-urlencoded"),
        (b"logout_token=", "application/x-www-form-urlencoded"),
        (b"logout_token=a.b.c", "application/x-www-form-urlencoded"),
        (b"logout_token=%ff%fe", "application/x-www-form-urlencoded"),
        (b"\xff\xfe\x00", "application/x-www-form-urlencoded"),
        (b"logout_token=" + b"a" * 20_000, "application/x-www-form-urlencoded"),
        (b'{"logout_token":"a.b.c"}', "application/json"),
        (
            b"--x\r\nContent-Disposition: form-data; name=logout_token\r\n\r\na\r\n--x--",
            "multipart/form-data; boundary=x",
        ),
        (b"--x\r\nnonsense", "multipart/form-data; boundary=x"),
        (b"nonsense", "multipart/form-data"),
    ],
)
async def test_what_is_no_question_is_answered_all_the_same(tmp_path: Path, body: bytes, content_type: str) -> None:
    async with people(tmp_path) as stage:
        answer = await stage.browser.get(URL, method="POST", data=body, Content_Type=content_type)
        assert answer.status == 400
        assert await left(stage) == set(EVERYBODY)


async def test_a_body_without_end_is_cut_off(tmp_path: Path) -> None:
    async with people(tmp_path) as stage:
        assert (await tell(stage, "a" * 900_000)).status == 413


async def test_a_query_has_no_say(tmp_path: Path) -> None:
    """N-21, the other way round: what belongs into the body is read there."""
    async with people(tmp_path) as stage:
        url = f"{URL}?logout_token={token(stage)}"
        assert (await stage.browser.get(url, method="POST")).status == 400
        assert (await stage.browser.get(url)).status == 405
        assert await left(stage) == set(EVERYBODY)


async def test_it_is_where_the_provider_was_told_and_only_with_a_provider(tmp_path: Path) -> None:
    async with people(tmp_path) as stage:
        elsewhere = await stage.browser.get(URL.replace(AUTH, APP), method="POST", data=b"")
        assert elsewhere.status == 404
    (tmp_path / "h").mkdir()
    async with hosted(tmp_path / "h") as (stage, _):
        assert (await stage.browser.get(URL, method="POST", data=b"")).status == 404
