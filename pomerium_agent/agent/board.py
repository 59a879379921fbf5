"""What this replica can say of itself right now: filled in as its rooms open, read by the control socket."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pomerium_agent.agent.people import People
from pomerium_agent.authorize import Denials
from pomerium_agent.config import Compiled
from pomerium_agent.databroker import Databroker, ServerInfo
from pomerium_agent.envoy.admin import EnvoyAdmin
from pomerium_agent.envoy.ads_server import AdsServer
from pomerium_agent.runtime.health import Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.metrics import Metrics
from pomerium_agent.zero import Link


@dataclass(slots=True)
class Board:
    """Owned by run_agent. Whoever reads it must expect parts that are not there yet."""

    version: str
    instance: str
    health: Health
    keeper_pid: int
    metrics: Metrics = field(default_factory=Metrics)
    denials: Denials = field(default_factory=Denials)
    people: People | None = None
    databroker: Databroker | None = None
    log_ends: ServerInfo | None = None  # of the store of records, when metrics were last asked for
    link: Link | None = None
    offered: Compiled | None = None
    ads: AdsServer | None = None
    admin: EnvoyAdmin | None = None
    taken_at: datetime | None = None  # when Envoy took what is in force
    envoy_pid: Latest[int] = field(default_factory=lambda: Latest(0))
    stale: datetime | None = None  # since when the configuration that is served is only the last known good one
    draining: bool = False  # the keeper is about to stop: no more visitors, please
    inherited: bool = False  # Envoy serves what the agent whose place we took gave it, until it has taken ours
    in_force: Latest[str] = field(default_factory=lambda: Latest(""))  # digest; empty until Envoy has taken one

    def status(self) -> Mapping[str, object]:
        """Everything, as JSON-ready values; `statuses` and `checks` as in zero link 13.4."""
        reports = self.health.reports
        compiled = self.offered
        return {
            "version": self.version,
            "instance": self.instance,
            "pids": {"keeper": self.keeper_pid, "agent": os.getpid(), "envoy": self.envoy_pid.value},
            "token": {
                "fingerprint": self.link.token.fingerprint if self.link else "",
                "source": self.link.token.source.name if self.link else "",
            },
            "connected": bool(self.link and self.link.connection.value.connected),
            "ready": self.ready,
            "draining": self.draining,
            "config": {
                "in_force": self.in_force.value,
                "resumed": self.resumed,
                "last_good_of": self.stale.isoformat() if self.stale else None,
                "offered": compiled.snapshot.digest if compiled else "",
                "routes": len(compiled.snapshot.routes) if compiled else 0,
                "faults": [
                    {
                        "id": fault.id,
                        "subject": fault.subject,
                        "field": fault.field,
                        "reason": fault.reason,
                        "remedy": fault.remedy,
                        "route_id": fault.route_id,
                        "warning": fault.warning,
                    }
                    for fault in (compiled.faults if compiled else ())
                ],
            },
            "ads": dict(self.ads.counters) if self.ads else {},
            "statuses": {
                name: {
                    "status": report.status.value,
                    "error": report.error,
                    "attributes": dict(report.attributes),
                }
                for name, report in sorted(reports.items())
            },
            "checks": sorted(reports),
        }

    @property
    def ready(self) -> bool:
        """Whether visitors are served, and more may come."""
        return not self.not_ready

    @property
    def not_started(self) -> str:
        """Why starting is not over, empty when it is: a configuration is or was in force, whoever gave it to Envoy.

        Losing the control plane does not change it.
        """
        if self.in_force.value or self.resumed or self.inherited:
            return ""
        return "no configuration is in force yet"

    @property
    def not_ready(self) -> str:
        """Why nobody should be sent here, empty when all may come: we are starting, stopping, or have no Envoy."""
        if self.draining:
            return "this replica is stopping"
        if not self.not_started and not self.envoy_pid.value:
            return "envoy is not running"
        return self.not_started

    @property
    def resumed(self) -> bool:
        """Whether Envoy serves what an agent before us gave it, and we have offered nothing yet."""
        return self.offered is None and self.ads is not None and self.ads.resumed
