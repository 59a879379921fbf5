"""`make demo`, as a person meets it: both people of the demo log in with a browser, and nothing is left behind."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from pomerium_agent.demo.playground import ask
from tests.e2e.world import eventually
from tests.fakes.browser import open_browser, open_profile, picture, words
from tests.fakes.postgres import skip_without_postgres

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


@asynccontextmanager
async def demo(directory: Path, *options: str) -> AsyncIterator[Mapping[str, Any]]:
    """The demo as a process of its own; what its ready file says."""
    ready = directory / "ready.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pomerium_agent", "demo", "--port", "0", "--ready-file", str(ready), *options),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:

        async def is_ready() -> bool:
            assert process.returncode is None
            return await asyncio.to_thread(ready.exists)

        await eventually("the demo is ready", is_ready, within=90)
        yield json.loads(await asyncio.to_thread(ready.read_text))
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        async with asyncio.timeout(30):
            await process.wait()


async def log_in(page: Page, told: Mapping[str, Any], *, allowed: bool) -> Mapping[str, str]:
    """Open the route for engineers, and fill in the form of the demo's own provider."""
    user = next(user for user in told["users"] if user["allowed"] is allowed)
    await page.goto(told["login_url"])
    await expect(page.get_by_role("heading", level=1)).to_have_text("Development sign-in")
    await page.get_by_label("Email").fill(user["email"])
    await page.get_by_label("Password").fill(user["password"])
    if allowed:
        await picture(page, "sign-in")
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(told["login_url"])
    found: Mapping[str, str] = user
    return found


async def test_one_is_greeted_by_name_and_the_other_sees_why_not(tmp_path: Path) -> None:
    """The demo's promise to whoever runs it."""
    async with open_browser() as browser:
        async with demo(tmp_path) as told:
            state = Path(told["state_dir"])
            async with open_profile(browser) as profile:
                page = await profile.new_page()
                ada = await log_in(page, told, allowed=True)
                await expect(page.get_by_role("heading", level=1)).to_have_text("Hello, Ada Lovelace!")
                await page.get_by_text("Technical details").click()
                assert ada["email"] in await words(page)
                await picture(page, "greeting")
                await page.get_by_role("link", name="Your account").click()
                assert "engineers" in await words(page)
                await picture(page, "account")
                await page.get_by_role("link", name="Applications").click()
                await page.get_by_role("searchbox").fill("engineers")
                await expect(page.get_by_role("listitem").filter(has_text="For engineers only")).to_be_visible()
                await page.get_by_role("searchbox").fill("")
                await picture(page, "portal")
                await page.get_by_role("button", name="Sign out").click()
                await expect(page.get_by_role("heading", level=1)).to_contain_text("signed out")
                await page.goto(told["login_url"])
                await expect(page.get_by_role("heading", level=1)).to_have_text("Development sign-in")
            async with open_profile(browser, dark=True) as profile:
                page = await profile.new_page()
                mallory = await log_in(page, told, allowed=False)
                body = await words(page)
                assert "403" in body
                assert mallory["email"] in body
                assert "You are in none of the groups that this page is for." in body
                await picture(page, "denied")
        assert not await asyncio.to_thread(state.exists)


async def test_signed_in_at_one_replica_is_signed_in_at_the_other(tmp_path: Path) -> None:
    """D-37, A-7: the very next request is known there; when the first one is killed, nobody has to log in again."""
    skip_without_postgres()
    async with open_browser() as browser, demo(tmp_path, "--replicas", "2", "--postgres") as told:
        one, two = told["agents"]
        async with open_profile(browser) as profile:
            page = await profile.new_page()
            await log_in(page, told, allowed=True)
            await expect(page.get_by_role("heading", level=1)).to_have_text("Hello, Ada Lovelace!")

            port, other = (agent["address"].rpartition(":")[2] for agent in (one, two))
            there = told["login_url"].replace(f":{port}/", f":{other}/")
            await page.goto(there)
            await expect(page.get_by_role("heading", level=1)).to_contain_text("Ada Lovelace")

            for name in ("keeper_pid", "agent_pid", "envoy_pid"):
                os.kill(one[name], signal.SIGKILL)
            await page.goto(there)
            await expect(page.get_by_role("heading", level=1)).to_contain_text("Ada Lovelace")

            async def holds_the_lease() -> bool:
                statuses: Any = (await ask(Path(two["control_socket"]), "/status"))["statuses"]
                return bool(statuses["identity.manager"]["attributes"].get("role") == "active")

            await eventually("the other replica does what one of them must do", holds_the_lease, within=60)
