"""The process above agent and Envoy."""

from pomerium_agent.keeper.children import Patience
from pomerium_agent.keeper.keeper import run_keeper

__all__ = ["Patience", "run_keeper"]
