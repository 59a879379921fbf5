"""An OpenID Connect provider for development: a few people with passwords that everybody may know, loopback only.

It does what a client of a real provider needs to be tried out (code flow with PKCE, refresh, userinfo, sign-out), and
keeps everything in memory. Never put it where anybody else can reach it.
"""

import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiohttp import web
from joserfc.jwk import ECKey

from pomerium_agent.demo.provider_pages import Pages
from pomerium_agent.demo.provider_people import DevClient, DevProvider, DevUser
from pomerium_agent.errors import SettingsError
from pomerium_agent.runtime.clock import Clock, SystemClock

__all__ = ["DevClient", "DevProvider", "DevUser", "new_key", "serve_dev_provider"]


def new_key() -> ECKey:
    """Named by itself, so that nobody goes on with the key before it."""
    key = ECKey.generate_key("P-256", {"use": "sig", "alg": "ES256"})
    key.ensure_kid()
    return key


@asynccontextmanager
async def serve_dev_provider(
    *,
    users: Sequence[DevUser],
    clients: Sequence[DevClient],
    port: int = 0,
    clock: Clock | None = None,
    key: ECKey | None = None,
) -> AsyncIterator[DevProvider]:
    """Serve on loopback until the block ends; port 0 takes a free one. SettingsError when the port is taken.

    `key` is for a provider that comes back and is the same as before; see `new_key`.
    """
    try:
        bound = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise SettingsError(f"the development provider cannot listen on port {port}: {error.strerror}") from error
    with bound:
        issuer = f"http://127.0.0.1:{bound.getsockname()[1]}"
        provider = DevProvider(issuer=issuer, users=tuple(users), clients=tuple(clients))
        runner = web.AppRunner(
            Pages(provider, clock or SystemClock(), key or new_key()).application(),
            access_log=None,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        try:
            await web.SockSite(runner, bound).start()
            yield provider
        finally:
            await runner.cleanup()
