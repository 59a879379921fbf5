"""The pages that the agent itself serves on every host."""

from pomerium_agent.authenticate.pages import PublicKeys, serve_pages

__all__ = ["PublicKeys", "serve_pages"]
