"""Taking a door of HTTP off its hinges without refusing anybody who stands in it."""

import asyncio

from aiohttp import web

LINGER = 0.1  # seconds in which the first bytes of who was let in last arrive


async def close_door(site: web.BaseSite) -> None:
    """Accept nobody any more, and let who was accepted a moment ago ask: aiohttp cuts those who have not asked yet."""
    await site.stop()
    await asyncio.sleep(LINGER)
