"""A real Chromium, driven through logins: every name is this machine, and cookies are nobody else's."""

import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
STATUS = "Failed to load resource: the server responded with a status of "  # a page of 403, say
FOREIGN = re.compile(r"http://127\.0\.0\.1:\d+/(interaction|session)/")  # of the certified provider, which wants fonts
IMAGES = Path(__file__).parents[2] / "docs" / "images"


def why_not() -> str:
    """Why there is no browser here, and what to do; empty when there is one."""
    if _program() is None:
        return "no Chromium here; on Debian and Ubuntu: apt install chromium"
    return ""


def _program() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@asynccontextmanager
async def open_browser() -> AsyncIterator[Browser]:
    """Skips the test, saying what to install, where there is no Chromium."""
    if reason := why_not():
        pytest.skip(reason)
    arguments = ["--host-resolver-rules=MAP * 127.0.0.1"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium's own does not work for root
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=_program(), args=arguments)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def open_profile(browser: Browser, *, dark: bool = False) -> AsyncIterator[BrowserContext]:
    """One person's browser, with cookies of its own. Certificates of test authorities are taken.

    In the end no page may have complained: of a policy that it broke, of a script that failed, of anything.
    """
    context = await browser.new_context(
        ignore_https_errors=True, color_scheme="dark" if dark else "light", viewport={"width": 1100, "height": 760}
    )
    context.set_default_timeout(20_000)
    complaints: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        where = message.page.url if message.page is not None else ""
        ours = not FOREIGN.match(where) and not message.text.startswith(STATUS)
        if ours and message.type in ("error", "warning"):
            complaints.append(f"{message.type} on {where}: {message.text}")

    context.on("console", hear)
    context.on("weberror", lambda error: complaints.append(str(error.error)))
    try:
        yield context
    finally:
        await context.close()
    assert not complaints, complaints


async def picture(page: Page, name: str) -> None:
    """Keep what the page looks like in docs/images, when pictures are asked for (PICTURES=write)."""
    if os.environ.get("PICTURES") != "write":
        return
    IMAGES.mkdir(exist_ok=True)
    await page.screenshot(path=IMAGES / f"{name}.png")


async def words(page: Page) -> str:
    """What a person reads there, on one line."""
    return re.sub(r"\s+", " ", await page.inner_text("body"))
