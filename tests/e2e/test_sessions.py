"""Sessions of people who logged in at a certified provider: kept fresh by the agent, revoked by its operator."""

import asyncio
import json
import sys
from typing import Any

import aiohttp
import pytest

from pomerium_agent.demo.playground import ReplicaAt, free_port, visitor
from tests.e2e.world import eventually, open_world
from tests.fakes.oidc_provider import ADA, Browser, OidcClient, needs_oidc_provider, run_oidc_provider

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), needs_oidc_provider]

SETTINGS = """
authenticate_service_url: https://authenticate.DOMAIN:PORT
idp_provider: oidc
idp_provider_url: ISSUER
idp_client_id: agent
idp_client_secret: SECRET
"""
WIKI = """
from: https://wiki.DOMAIN
to: UPSTREAM
allow_any_authenticated_user: true
"""
LIFETIMES = {"AccessToken": 75, "IdToken": 3600}  # seconds; refreshed a minute before, so some seconds after login


async def sessions(replica: ReplicaAt, *arguments: str) -> Any:
    """`pomerium-agent sessions …` in a process of its own; what it said as JSON."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pomerium_agent", "sessions", *arguments, "--json"),
        *("--socket", str(replica.control_socket)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return json.loads(said)


async def test_a_session_is_refreshed_listed_and_revoked() -> None:
    """N-35, N-38: the tokens of a real login are renewed in time; a revoked session is a stranger's."""
    port = free_port()
    async with open_world() as world, visitor(world.cluster.ca_file) as plain:
        login = f"https://authenticate.{world.domain}:{port}"
        client = OidcClient(redirect_uris=(f"{login}/oauth2/callback",))
        async with run_oidc_provider([client], lifetimes=LIFETIMES) as provider:
            filled = SETTINGS.replace("DOMAIN", world.domain).replace("PORT", str(port))
            filled = filled.replace("ISSUER", provider.issuer).replace("SECRET", json.dumps(client.secret))
            await world.apply(WIKI, settings=filled)
            async with (
                world.cluster.replica(port=port) as replica,
                aiohttp.ClientSession(
                    connector=plain.connector, connector_owner=False, cookie_jar=aiohttp.CookieJar(unsafe=True)
                ) as cookies,
            ):
                wiki = world.url(replica, "wiki", "/")
                async with cookies.get(wiki, allow_redirects=False) as first:
                    assert first.status == 302
                    begins = first.headers["Location"]
                back = await Browser(cookies).log_in(begins, ADA, until=f"https://wiki.{world.domain}:{port}/.pomerium")
                async with cookies.get(back) as answer:
                    assert answer.status == 200

                listed = (await sessions(replica, "list", "--email", ADA.email))["sessions"]
                assert [each["provider"] for each in listed] == ["oidc"]
                id = listed[0]["id"]
                at_login = (await sessions(replica, "show", id))["access_token_expires_at"]

                async def refreshed() -> bool:
                    return bool((await sessions(replica, "show", id))["access_token_expires_at"] > at_login)

                await eventually("the session was refreshed", refreshed, within=60)
                async with cookies.get(wiki, allow_redirects=False) as still:
                    assert still.status == 200

                revoked = await sessions(replica, "revoke", "--user", listed[0]["user_id"])
                assert [each["id"] for each in revoked["revoked"]] == [id]
                async with cookies.get(wiki, allow_redirects=False) as stranger:
                    assert stranger.status == 302
                assert (await sessions(replica, "list"))["sessions"] == []
