"""How the agent asks those who vouch for visitors and for itself: identity providers, and Google."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from pomerium_agent.zero import proxy_for, tls_context, trusted_roots


@asynccontextmanager
async def open_outside() -> AsyncIterator[aiohttp.ClientSession]:
    """HTTP that trusts the roots, and goes through the proxies, that the line to the control plane does."""
    context = tls_context(await asyncio.to_thread(trusted_roots))
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context),
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=(_through_proxy,),
    ) as http:
        yield http


async def _through_proxy(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Plain HTTP is for this machine and for Google's metadata server next to it: never through a proxy."""
    if request.url.scheme == "https":
        request.update_proxy(proxy_for(request.url), None, None)
    return await handler(request)
