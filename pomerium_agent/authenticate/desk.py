"""What every page of ours has at hand: the configuration, who is signed in, the store, the providers, the time."""

from dataclasses import dataclass, field

import aiohttp

from pomerium_agent.authenticate.server_key import ServerKey
from pomerium_agent.authenticate.site import Site
from pomerium_agent.databroker.backend import Backend
from pomerium_agent.idp import Providers
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.metrics import Metrics
from pomerium_agent.sessions.live import Sessions


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """One for the life of the agent; `site` changes with the configuration."""

    site: Latest[Site]
    sessions: Sessions
    backend: Backend
    http: aiohttp.ClientSession  # trusts what this machine trusts; cookies of nobody
    clock: Clock
    providers: Providers
    server_key: ServerKey
    mixed_cluster: bool = False  # replicas of another make share it: they bind no login, and prove nothing (G-3, 8.7)
    metrics: Metrics = field(default_factory=Metrics)
