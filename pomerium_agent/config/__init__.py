"""Records in, the configuration in force out."""

from pomerium_agent.config.compile import CompileCache, compile_snapshot
from pomerium_agent.config.live import Compiled, open_config
from pomerium_agent.config.snapshot import ConfigSnapshot, Fault

__all__ = ["CompileCache", "Compiled", "ConfigSnapshot", "Fault", "compile_snapshot", "open_config"]
