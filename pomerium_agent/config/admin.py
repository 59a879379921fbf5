"""Envoy's admin on a port: only for this machine, and a log of it only where Envoy logs anyway (routes 1.7). Pure."""

import ipaddress

from pomerium_agent.config.addresses import parse_address
from pomerium_agent.config.complaints import Unusable, shown
from pomerium_agent.config.snapshot import Address

ADMIN_PORT = 9901  # Envoy's own habit
NOWHERE = "/dev/null"
_STREAMS = (NOWHERE, "/dev/stdout", "/dev/stderr")


def parse_admin_address(text: str) -> Address:
    """An address of loopback. Whoever reaches the admin can stop Envoy, and reads its whole configuration."""
    address = parse_address(text, default_port=ADMIN_PORT)
    if not address.host or not ipaddress.ip_address(address.host).is_loopback:
        raise Unusable(
            f"{shown(text)} can be reached from other machines, and Envoy's admin asks nobody who they are",
            f"use 127.0.0.1:{address.port}, and a tunnel to this machine",
        )
    return address


def parse_admin_log(path: str) -> str:
    """One of the standard streams. A configuration that comes from elsewhere must not write files here."""
    path = path or NOWHERE
    if path not in _STREAMS:
        raise Unusable(
            f"{shown(path)} is a file, which a configuration may not write", "use /dev/stdout or /dev/stderr"
        )
    return path
