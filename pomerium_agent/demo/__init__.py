"""The one-command playground."""

from pomerium_agent.demo.show import run_demo

__all__ = ["run_demo"]
