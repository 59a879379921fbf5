"""The databroker for clients outside of this process: gRPC, with the services and messages of Pomerium's."""

from pomerium_agent.databroker.service.serve import Listener, Service, serve_databroker
from pomerium_agent.databroker.service.streams import Limits

__all__ = ["Limits", "Listener", "Service", "serve_databroker"]
