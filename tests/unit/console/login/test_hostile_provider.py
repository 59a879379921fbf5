"""A provider that says what it should not: nobody is signed in at the console by it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pomerium_agent.console.login import manage
from pomerium_agent.console.login.answers import SESSION_COOKIE
from pomerium_agent.console.login.settings import checked_settings
from pomerium_agent.settings import Secret
from tests.fakes.hostile_provider import HostileProvider
from tests.fakes.login_stage import LOGIN, Answer, Browser, Stage, login_stage


@asynccontextmanager
async def stage_with(tmp_path: Path) -> AsyncIterator[tuple[Stage, HostileProvider]]:
    async with login_stage(tmp_path) as stage, HostileProvider(stage.clock).serve() as hostile:
        settings = checked_settings(
            provider="oidc",
            url=hostile.issuer,
            client_id=hostile.client_id,
            client_secret=Secret(hostile.secret),
            public_url=LOGIN,
        )
        manage.set_login(stage.console.store, settings, stage.now)
        yield stage, hostile


async def come_back(stage: Stage, hostile: HostileProvider, browser: Browser) -> Answer:
    """Begin a sign-in, and come back from the provider with its code."""
    begun = await browser.ask(stage.wiki.ask(await stage.server_key(), stage.now))
    asked = parse_qs(urlsplit(begun.leads_to).query)
    hostile.nonce = asked["nonce"][0]
    hostile.codes.add("code")
    return await browser.ask(f"{LOGIN}/oauth2/callback?code=code&state={asked['state'][0]}")


@pytest.mark.parametrize(
    "changes",
    [
        {"id_token_changes": {"nonce": "of another login"}},
        {"id_token_changes": {"aud": "another client"}},
        {"id_token_changes": {"iss": "https://evil.example"}},
        {"id_token_changes": {"exp": 1}},
        {"id_token_changes": {"sub": ""}},
        {"userinfo_changes": {"sub": "mallory"}},
        {"token_changes": {"id_token": "a.b.c"}},
        {"token_changes": {"access_token": 7}},
    ],
)
async def test_what_fails_a_check_signs_nobody_in(tmp_path: Path, changes: dict[str, Any]) -> None:
    """G-6, N-32."""
    async with stage_with(tmp_path) as (stage, hostile):
        for name, value in changes.items():
            setattr(hostile, name, value)
        browser = stage.browser()
        answer = await come_back(stage, hostile, browser)

        assert answer.status == 502
        assert SESSION_COOKIE not in browser.cookies["login.example.com"]
        assert stage.console.store.database.read("SELECT * FROM login_session") == []


async def test_a_provider_that_speaks_of_somebody_else_later_ends_the_session(tmp_path: Path) -> None:
    """N-32, also when the provider is asked again."""
    async with stage_with(tmp_path) as (stage, hostile):
        browser = stage.browser()
        assert (await come_back(stage, hostile, browser)).status == 302
        hostile.userinfo_changes = {"sub": "mallory"}
        stage.clock.jump(61)

        answer = await browser.ask(stage.wiki.ask(await stage.server_key(), stage.now))

        assert answer.leads_to.startswith(f"{hostile.issuer}/authorize?")
        assert stage.console.store.database.read("SELECT * FROM login_session") == []


async def test_claims_cannot_pose_as_something_else(tmp_path: Path) -> None:
    """G-7, N-46: the provider's id is the one that was asked for, whatever the claims say."""
    async with stage_with(tmp_path) as (stage, hostile):
        hostile.userinfo_changes = {"providerId": "evil", "idp_id": "evil", "pomerium_redirect_uri": "https://evil"}
        browser = stage.browser()
        await come_back(stage, hostile, browser)
        _, inner = await stage.sign_in(stage.wiki, browser)

    assert json.loads(inner["pomerium_identity_profile"])["providerId"] == "idp-1"
    assert inner["pomerium_redirect_uri"] == "https://app.wiki.example.com/page?a=b"


async def test_a_provider_that_fails_is_said_to_be_away(tmp_path: Path) -> None:
    """Neither its words nor our secret are on the page (N-33)."""
    async with stage_with(tmp_path) as (stage, hostile):
        hostile.fail("/token", 500, {"error": "<b>oops</b>"})
        answer = await come_back(stage, hostile, stage.browser())

    assert answer.status == 503
    assert "oops" not in answer.text
    assert hostile.secret not in answer.text
