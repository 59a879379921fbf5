"""Configuration in, Envoy resources out. Pure: no clock, no socket, no disk, no log."""

from pomerium_agent.envoyconfig.bootstrap import build_bootstrap, envoy_arguments, envoy_log_level
from pomerium_agent.envoyconfig.build import BuildCache, build_resources
from pomerium_agent.envoyconfig.local import LocalAddresses

__all__ = ["BuildCache", "LocalAddresses", "build_bootstrap", "build_resources", "envoy_arguments", "envoy_log_level"]
