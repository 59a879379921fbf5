"""What `pomerium-agent doctor` looks at, one module per place where things go wrong."""

from pomerium_agent.cli.checkup.examine import examine
from pomerium_agent.cli.checkup.finding import Finding, State

__all__ = ["Finding", "State", "examine"]
