"""The databroker for clients outside of this process: gRPC, with the services and messages of Pomerium's."""

from pomerium_agent.databroker.service.serve import Listener, Service, serve_databroker

__all__ = ["Listener", "Service", "serve_databroker"]
