"""One port, one use (routes 7): visitors first, and nothing that is for few ever stands where they are served.

Not left to Envoy: of two listeners at one address it takes whichever comes first, and with an address of loopback
beside all interfaces it takes both, so that whoever comes from this machine would meet the other one.
"""

from collections.abc import Callable
from dataclasses import replace

from pomerium_agent.config.complaints import Complaints
from pomerium_agent.config.snapshot import Settings


def keep_apart(settings: Settings, complaints_of: Callable[[str], Complaints]) -> Settings:
    """Without those listeners whose port something that matters more has. The databroker's and the one for metrics
    are looked at where they are read.
    """
    redirect, admin = settings.http_redirect, settings.envoy_admin
    if redirect is not None and redirect.port == settings.address.port:
        complaints_of("http_redirect_addr").warn(
            "http_redirect_addr",
            f"port {redirect.port} is where visitors are served, so there is no redirect from plain HTTP",
            "choose another port, for example 80",
        )
        redirect = None
    metrics = None if settings.metrics is None else settings.metrics.address
    taken = {each.port for each in (settings.address, redirect, settings.grpc_address, metrics) if each is not None}
    if admin is not None and admin.port in taken:
        complaints_of("envoy_admin_address").warn(
            "envoy_admin_address",
            f"port {admin.port} is where something else is served, so Envoy's admin is not",
            "choose another port, for example 9901",
        )
        admin = None
    return replace(settings, http_redirect=redirect, envoy_admin=admin)
