"""Which version this is, and which Pomerium it stands in for."""

from importlib.metadata import PackageNotFoundError, version

# The newest Pomerium whose configuration this replica understands. Control planes choose what to send by
# this number, and conditions in a VersionedConfig are compared with it (zero link 18.1).
PROTOCOL_VERSION = "0.37.0"


def agent_version() -> str:
    """Our own version, as released."""
    try:
        return version("pomerium-agent")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0.0.0"


def full_version() -> str:
    """What we call ourselves on the wire: the Pomerium we are compatible with, then who we really are (Z-15)."""
    return f"{PROTOCOL_VERSION}+pomerium-agent.{agent_version()}"
