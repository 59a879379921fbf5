"""Tokens that replicas ask about (authenticate 8.7)."""

import json
from pathlib import Path

import pytest

from pomerium_agent.authenticate.rate import Rate
from pomerium_agent.handoff.proof import HEADER, make_proof
from tests.unit.authenticate.stage import APP, AUTH, KEY, OTHER_KEY, Answer, Scene, scene

ACCESS, IDENTITY = "/.pomerium/verify-access-token", "/.pomerium/verify-identity-token"


async def ask(
    stage: Scene, path: str, said: object, *, key: bytes | None = KEY, host: str = AUTH, late: int = 0
) -> Answer:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    proof = {} if key is None else {HEADER: make_proof(key, path, body, stage.clock.now())}
    stage.clock.jump(late)
    return await stage.browser.get(f"https://{host}{path}", method="POST", data=body, **proof)


async def test_a_good_token_is_told_with_its_claims(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.idp.access_tokens.add("at")
        access = await ask(stage, ACCESS, {"accessToken": "at", "identityProviderId": stage.idp_id})
        identity = await ask(stage, IDENTITY, {"identityToken": stage.idp.token()})

        assert json.loads(access.text)["valid"] is True
        assert json.loads(access.text)["claims"]["email"] == "ada@userinfo.example"
        assert json.loads(identity.text)["claims"]["sub"] == "ada"


async def test_a_bad_token_is_told_without_anything(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        for path, said in (
            (ACCESS, {"accessToken": "nobody's"}),
            (ACCESS, {"accessToken": "x", "identityProviderId": "another"}),
            (IDENTITY, {"identityToken": "a.b.c"}),
            (IDENTITY, {"identityToken": stage.idp.token(aud="another client")}),
            (IDENTITY, {"identityToken": stage.idp.token(exp=1)}),
        ):
            answer = await ask(stage, path, said)
            assert (answer.status, json.loads(answer.text)) == (200, {"valid": False})


@pytest.mark.parametrize("said", [b"", b"\xff", b"[]", b"null", b"{}", b'{"accessToken":1}', b"[" * 20_000])
async def test_what_is_no_question(tmp_path: Path, said: bytes) -> None:
    async with scene(tmp_path) as stage:
        assert (await ask(stage, ACCESS, said)).status == 400


async def test_only_the_cluster_itself_may_ask(tmp_path: Path) -> None:
    """N-48: no proof, another cluster's, an old one, one for another question, one for the other endpoint."""
    async with scene(tmp_path) as stage:
        stage.idp.access_tokens.add("at")
        said = {"accessToken": "at"}
        other = make_proof(KEY, ACCESS, b"{}", stage.clock.now())
        elsewhere = make_proof(KEY, IDENTITY, json.dumps(said).encode(), stage.clock.now())
        answers = [
            await ask(stage, ACCESS, said, key=None),
            await ask(stage, ACCESS, said, key=OTHER_KEY),
            await ask(stage, ACCESS, said, late=61),
            *[
                await stage.browser.get(
                    f"https://{AUTH}{ACCESS}", method="POST", data=json.dumps(said).encode(), **{HEADER: proof}
                )
                for proof in (other, elsewhere, "v1", "v1.x.y", "v1.9999999999999.y", "é")
            ],
        ]

        assert {answer.status for answer in answers} == {401}
        assert not stage.idp.of("userinfo")


async def test_others_may_ask_where_that_is_configured_but_not_with_a_false_proof(tmp_path: Path) -> None:
    """N-48: stock agents send no proof."""
    async with scene(tmp_path, mixed_cluster=True) as stage:
        stage.idp.access_tokens.add("at")
        bare = await ask(stage, ACCESS, {"accessToken": "at"}, key=None)
        false = await ask(stage, ACCESS, {"accessToken": "at"}, key=OTHER_KEY)

        assert (bare.status, false.status) == (200, 401)


async def test_nobody_asks_without_end(tmp_path: Path) -> None:
    """N-48."""
    async with scene(tmp_path, mixed_cluster=True) as stage:
        statuses = [(await ask(stage, ACCESS, b"", key=None)).status for _ in range(25)]
        stage.clock.jump(1)
        after = await ask(stage, ACCESS, b"", key=None)

        assert statuses == [400] * 20 + [429] * 5
        assert after.status == 400


async def test_the_provider_being_away_is_no_verdict(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        stage.idp.fail("openid-configuration", 503)

        assert (await ask(stage, ACCESS, {"accessToken": "at"})).status == 503


async def test_it_is_on_the_authenticate_host_only(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        assert (await ask(stage, ACCESS, {"accessToken": "at"}, host=APP)).status == 404


def test_a_bucket_fills_by_itself() -> None:
    rate = Rate(per_second=2, at_once=3)

    assert [rate.allow(0) for _ in range(4)] == [True, True, True, False]
    assert [rate.allow(0.5) for _ in range(2)] == [True, False]
    assert [rate.allow(100) for _ in range(4)] == [True, True, True, False]
