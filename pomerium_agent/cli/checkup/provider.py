"""Whether the identity provider can be asked that people log in with, as far as this machine knows which one it is."""

import asyncio

from pomerium_agent.agent.outside import open_outside
from pomerium_agent.cli.checkup.finding import Finding, failed, ok, skipped
from pomerium_agent.errors import ProviderUnavailable, SettingsError
from pomerium_agent.idp.discovery import DiscoveryCache, read_metadata
from pomerium_agent.idp.kinds import issuer_of, kind_of
from pomerium_agent.idp.settings import ProviderSettings
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.runtime.clock import SystemClock

NAME = "identity provider"
SECONDS = 15.0
NO_DISCOVERY = frozenset({"github", "hosted"})


def check(config: config_pb2.Config | None) -> Finding:
    """Fetch its discovery document, as the first login does (authenticate 6.1)."""
    if config is None:
        return skipped(NAME, "this machine has not been told of one yet")
    said = config.settings
    if not said.idp_provider:
        return ok(NAME, "none is configured; the hosted service or the console logs people in")
    wanted = ProviderSettings(type=said.idp_provider, url=said.idp_provider_url)
    try:
        kind = kind_of(wanted)
        issuer = issuer_of(kind, wanted)
        if kind.name in NO_DISCOVERY:
            return ok(NAME, f"{kind.name}, which has no discovery document")
        asyncio.run(_discover(issuer))
    except SettingsError as error:
        return failed(NAME, str(error), "correct this setting at the console")
    except (ProviderUnavailable, TimeoutError) as error:
        remedy = "see that idp_provider_url is its issuer, and that this machine may connect there"
        return failed(NAME, f"{issuer} cannot be asked: {error or 'no answer in time'}", remedy)
    return ok(NAME, f"{issuer} answers")


async def _discover(issuer: str) -> None:
    async with asyncio.timeout(SECONDS), open_outside() as http:
        read_metadata(await DiscoveryCache(http, SystemClock()).find(issuer), issuer)
