"""The pages that the agent itself serves on every host."""

from pomerium_agent.authenticate.desk import Desk
from pomerium_agent.authenticate.pages import PublicKeys, serve_pages
from pomerium_agent.authenticate.server_key import ServerKey, open_server_key
from pomerium_agent.authenticate.site import Site, build_site

__all__ = ["Desk", "PublicKeys", "ServerKey", "Site", "build_site", "open_server_key", "serve_pages"]
