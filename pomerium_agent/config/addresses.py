"""Addresses to listen on, as Pomerium writes them: `:443`, `127.0.0.1:8443`, `[::]:443`."""

import ipaddress

from pomerium_agent.config.complaints import Unusable, shown
from pomerium_agent.config.snapshot import Address

NAMED_PORTS = {"http": 80, "https": 443}


def parse_address(text: str, *, default_port: int) -> Address:
    """An address; a missing port is the listener's own (routes 7). Raises Unusable."""
    text = text.strip().strip("\"'")
    host, port_text = _halves(text)
    host = "127.0.0.1" if host == "localhost" else host
    if host:
        try:
            host = str(ipaddress.ip_address(host))
        except ValueError:
            raise Unusable(
                f"{shown(text)} does not begin with an IP address",
                "write :443 for every interface, or an address such as 127.0.0.1:8443 or [::1]:8443",
            ) from None
    if not port_text:
        return Address(host=host, port=default_port)
    port = NAMED_PORTS.get(port_text.lower(), 0)
    if port_text.isascii() and port_text.isdigit():
        port = int(port_text)
    if not 1 <= port <= 65535:
        raise Unusable(f"{shown(text)} has no usable port", "use a port from 1 to 65535")
    return Address(host=host, port=port)


def _halves(text: str) -> tuple[str, str]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise Unusable(f"{shown(text)} is not an address", "write it as [::1]:8443")
        return host, rest[1:]
    if text.count(":") > 1:  # a bare IPv6 address
        return text, ""
    host, _, port = text.partition(":")
    return host, port
