"""Our end of the line to the control plane, be it the hosted one or our console."""

from pomerium_agent.zero.answers import BootstrapConfig
from pomerium_agent.zero.egress import proxy_for, tls_context, trusted_roots
from pomerium_agent.zero.link import Link, open_link, run_jobs
from pomerium_agent.zero.nudge import Flag
from pomerium_agent.zero.secrets import DerivedSecrets

__all__ = [
    "BootstrapConfig",
    "DerivedSecrets",
    "Flag",
    "Link",
    "open_link",
    "proxy_for",
    "run_jobs",
    "tls_context",
    "trusted_roots",
]
