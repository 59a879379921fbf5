"""The pages that the agent itself serves on every host."""

from pomerium_agent.authenticate.pages import serve_pages

__all__ = ["serve_pages"]
