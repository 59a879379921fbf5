"""Envoy asks, we answer (ext_authz)."""

from pomerium_agent.authorize.check import Checker, check
from pomerium_agent.authorize.denials import Denials, Denied
from pomerium_agent.authorize.rules import NO_RULES, RouteRules, Rules
from pomerium_agent.authorize.server import serve_authorize

__all__ = [
    "NO_RULES",
    "Checker",
    "Denials",
    "Denied",
    "RouteRules",
    "Rules",
    "check",
    "serve_authorize",
]
