"""Whether the control plane takes the token."""

import asyncio

import aiohttp

from pomerium_agent.cli.checkup.finding import Finding, failed, ok
from pomerium_agent.errors import ConfigRejected, ControlPlaneUnavailable, Refused
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.settings import Settings
from pomerium_agent.zero import tls_context, trusted_roots
from pomerium_agent.zero.api import ClusterApi, Patience
from pomerium_agent.zero.identity import read_identity

NAME = "token accepted"
PATIENCE = Patience(connect=5.0, read=5.0, total=10.0, exchange=10.0)


def check(settings: Settings) -> Finding:
    """Exchange it once, as a replica does when it starts; nothing changes by that (Z-10)."""
    try:
        asyncio.run(_try(settings))
    except Refused:
        remedy = "copy the token of this cluster from the console again, or correct CLUSTER_API_ENDPOINT"
        return failed(NAME, "the control plane refuses the token", f"{remedy} if it is of another console")
    except (ControlPlaneUnavailable, ConfigRejected) as error:
        remedy = "see that CLUSTER_API_ENDPOINT names the API of your control plane, with its path"
        return failed(NAME, f"it cannot be tried: {error}", remedy)
    return ok(NAME, "the control plane takes it")


async def _try(settings: Settings) -> None:
    context = tls_context(await asyncio.to_thread(trusted_roots))
    identity = await asyncio.to_thread(read_identity, "doctor")
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context), cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        api = ClusterApi(
            session, settings.cluster_api, settings.token, identity, clock=SystemClock(), patience=PATIENCE
        )
        await api.try_token(settings.token)
