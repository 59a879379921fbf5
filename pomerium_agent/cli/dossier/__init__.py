"""What `pomerium-agent support` puts together for a bug report: gathered, redacted, packed."""

from pomerium_agent.cli.dossier.archive import Packed, pack, write
from pomerium_agent.cli.dossier.evidence import Wanted, gather

__all__ = ["Packed", "Wanted", "gather", "pack", "write"]
