"""The identity manager: keeps sessions fresh for as long as their identity provider says so (authenticate 7)."""

from pomerium_agent.authenticate.manager.run import run_identity_manager

__all__ = ["run_identity_manager"]
