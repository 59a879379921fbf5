"""Where records live, and how replicas hear of each change."""

from pomerium_agent.databroker.backend import Backend, Found, Options, ServerInfo, Written
from pomerium_agent.databroker.cleanup import run_cleanup
from pomerium_agent.databroker.follow import Change, Reset, Updated, follow
from pomerium_agent.databroker.handover import HandOver
from pomerium_agent.databroker.kinds import check_storage, storage_kind
from pomerium_agent.databroker.leases import hold_lease
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.databroker.storage import open_databroker
from pomerium_agent.databroker.switching import Databroker, Store

__all__ = [
    "Backend",
    "Change",
    "Databroker",
    "Found",
    "HandOver",
    "MemoryBackend",
    "Options",
    "Reset",
    "ServerInfo",
    "Store",
    "Updated",
    "Written",
    "check_storage",
    "follow",
    "hold_lease",
    "open_databroker",
    "run_cleanup",
    "storage_kind",
]
