"""Our end of the line to the control plane, be it the hosted one or our console."""

from pomerium_agent.zero.answers import BootstrapConfig
from pomerium_agent.zero.egress import trusted_roots
from pomerium_agent.zero.link import Link, open_link, run_jobs

__all__ = ["BootstrapConfig", "Link", "open_link", "run_jobs", "trusted_roots"]
