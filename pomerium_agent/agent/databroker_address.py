"""Where clients outside of this process reach the databroker, as the settings in force have it."""

import ipaddress

from pomerium_agent.config import Compiled
from pomerium_agent.config.snapshot import Settings
from pomerium_agent.databroker.service import Listener
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.waiting import until_is


def listener_of(settings: Settings) -> Listener | None:
    """The address of the settings, with the certificates of visitors unless it is to be without TLS. Pure.

    The reference has no TLS unless told so (routes 7). What travels there are sessions with their tokens, so when
    nothing is said, only an address that no other machine reaches is without.
    """
    address = settings.grpc_address
    if address is None:
        return None
    insecure = settings.grpc_insecure
    if insecure is None:
        insecure = bool(address.host) and ipaddress.ip_address(address.host).is_loopback
    certificates = () if insecure else tuple((each.chain, each.key) for each in settings.certificates)
    return Listener(host=address.host, port=address.port, certificates=certificates)


async def follow_address(
    config: Latest[Compiled | None], wanted: Latest[Listener | None], in_charge: Latest[bool]
) -> None:
    """Keep `wanted` at what the newest configuration says, once we are in charge, until cancelled."""
    await until_is(in_charge, True)
    async for compiled in config.follow():
        if compiled is not None:
            listener = listener_of(compiled.snapshot.settings)
            if listener != wanted.value:
                wanted.set(listener)
