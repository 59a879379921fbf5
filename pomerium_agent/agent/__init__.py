"""One replica's brain: what stands on what, and what flows where."""

from pomerium_agent.agent.run import run_agent

__all__ = ["run_agent"]
