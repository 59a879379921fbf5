"""The console logs people in for a cluster that has no provider of its own: sealed, through a real browser."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, expect

from pomerium_agent.demo.playground import ReplicaAt, free_port
from tests.e2e.world import World, eventually, open_world
from tests.fakes.browser import open_browser, open_profile, picture, words
from tests.fakes.oidc_provider import ADA, OidcClient, OidcUser, needs_oidc_provider, run_oidc_provider
from tests.fakes.private_ca import PrivateCa

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180), needs_oidc_provider]

HOST = "login.example.localhost"
WIKI = """
name: Wiki
from: https://wiki.DOMAIN
to: UPSTREAM
allow_any_authenticated_user: true
pass_identity_headers: true
"""


@asynccontextmanager
async def ending_tls(directory: Path, port: int, behind: int) -> AsyncIterator[None]:
    """What stands in front of a console that people reach: it ends TLS and passes on the bytes."""
    issued = PrivateCa("front").issue(HOST)
    chain = directory / "front.pem"
    await asyncio.to_thread(chain.write_bytes, issued.certificate + issued.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", behind)
        await asyncio.gather(pour(reader, back), pour(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=context)
    try:
        yield
    finally:
        server.close()


@asynccontextmanager
async def hosted(client: OidcClient, port: int) -> AsyncIterator[tuple[World, ReplicaAt]]:
    """A cluster whose people the console logs in, at the other end of `port`."""
    async with open_world() as world, run_oidc_provider([client]) as provider:
        api = urlsplit(world.cluster.console.cluster_api)
        secret = world.cluster.directory / "client-secret"
        await asyncio.to_thread(secret.write_text, client.secret)
        async with ending_tls(world.cluster.directory, port, api.port or 0):
            await world.cluster.verb(
                *("console", "login", "set", "--provider", "oidc", "--url", provider.issuer),
                *("--client-id", client.id, "--client-secret-file", str(secret)),
                *("--public-url", f"https://{HOST}:{port}", "--internal-url", f"http://{api.netloc}"),
            )
            await world.apply(WIKI)
            async with world.cluster.replica() as replica:
                world.sample.ca_file, world.sample.entrances = world.cluster.ca_file, (replica.port,)
                yield world, replica


async def sign_in(page: Page, user: OidcUser) -> None:
    """From the provider's form to the consent of the console."""
    await page.fill("input[name=login]", user.login)
    await page.fill("input[name=password]", user.password)
    await page.click("button[type=submit]")
    await page.click("button[type=submit]")  # the provider's own consent


async def test_a_cluster_without_a_provider_has_its_people_logged_in_by_the_console() -> None:
    """N-7, N-11, N-13, N-14, N-16, N-45, N-46: consent is asked for once, and the sealed answer lets the browser in."""
    port = free_port()
    client = OidcClient(redirect_uris=(f"https://{HOST}:{port}/oauth2/callback",))
    async with open_browser() as browser, hosted(client, port) as (world, replica), open_profile(browser) as profile:
        page = await profile.new_page()
        url = world.url(replica, "wiki", "/deep?x=1")

        async def login_begins() -> bool:
            await page.goto(url)
            return page.url.startswith("http://127.0.0.1")  # the provider's

        await eventually("the replica has the key of the console", login_begins)
        await sign_in(page, ADA)
        await expect(page.get_by_role("heading", level=1)).to_contain_text("wants to know who you are")
        await picture(page, "consent")
        await page.get_by_role("button", name="Continue").click()
        await page.wait_for_url(url)
        await expect(page.get_by_role("heading", level=1)).to_have_text("Hello, Ada Lovelace!")

        # Signed out at the route, and known to the console still: nothing is asked any more.
        await page.goto(world.url(replica, "wiki", "/.pomerium/"))
        assert ADA.email in await words(page)
        cookies = {cookie["name"]: cookie["value"] for cookie in await profile.cookies(url)}
        await page.get_by_role("button", name="Sign out").click()
        await page.wait_for_url(f"https://{HOST}:{port}/**")
        stolen = {"Cookie": f"_pomerium={cookies['_pomerium']}", "Accept": "application/json"}
        assert (await world.get(replica, "wiki", headers=stolen)).status == 401
        await page.goto(url)
        await expect(page.get_by_role("heading", level=1)).to_have_text("Hello, Ada Lovelace!")


async def test_a_callback_of_somebody_else_lets_nobody_in() -> None:
    """N-15, G-3: a victim's browser that is sent to an attacker's callback gets a page that says so."""
    port = free_port()
    client = OidcClient(redirect_uris=(f"https://{HOST}:{port}/oauth2/callback",))
    async with open_browser() as browser, hosted(client, port) as (world, replica):
        url = world.url(replica, "wiki")
        async with open_profile(browser) as attacker:
            page = await attacker.new_page()

            async def login_begins() -> bool:
                await page.goto(url)
                return page.url.startswith("http://127.0.0.1")

            await eventually("the replica has the key of the console", login_begins)
            caught: list[str] = []

            async def catch(route: object, request: object) -> None:
                caught.append(request.url)  # type: ignore[attr-defined]  # what playwright hands over
                await route.abort()  # type: ignore[attr-defined]

            await page.route("**/.pomerium/callback/**", catch)
            await sign_in(page, ADA)
            await page.get_by_role("button", name="Continue").click()

            async def is_caught() -> bool:
                return bool(caught)

            await eventually("the callback was caught", is_caught)
        async with open_profile(browser) as victim:
            page = await victim.new_page()
            response = await page.goto(caught[0])
            assert response is not None
            assert response.status == 400
            assert "cookie" in (await words(page)).lower()
            assert not [cookie for cookie in await victim.cookies(url) if cookie["name"] == "_pomerium"]
            assert json.dumps(await victim.cookies(url)) == "[]"
