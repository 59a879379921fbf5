"""Envoy asks, we answer (ext_authz)."""

from pomerium_agent.authorize.check import check
from pomerium_agent.authorize.server import serve_authorize

__all__ = ["check", "serve_authorize"]
