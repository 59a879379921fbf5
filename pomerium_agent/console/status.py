"""How a cluster is doing: its replicas, what each has in force, and what each left out and why. Reads only."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pomerium_agent.console.bundle import BUNDLE_ID, CAPTURED_HEADERS
from pomerium_agent.console.sightings import HealthReport, Replica
from pomerium_agent.console.store import Cluster, Store
from pomerium_agent.runtime.health import Check, bundle_check

FAULT = "fault."  # attributes of the configuration check that name what was left out


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """One replica against the version it should have."""

    instance: str
    hostname: str
    version: str
    address: str
    connected: bool
    connected_at: datetime | None
    last_seen: datetime
    digest: str  # of the configuration in force, as the replica says; empty: it has not said
    in_force: int | None  # the version with this digest; None: none that is remembered
    fetched: str  # the version it last downloaded, as far as it says
    current: bool
    faults: Mapping[str, str]  # by id: the item, and why it was left out
    failing: Mapping[str, str]  # other checks that are not well: name, error

    def to_json(self) -> dict[str, object]:
        return {
            "instance": self.instance,
            "hostname": self.hostname,
            "version": self.version,
            "address": self.address,
            "connected": self.connected,
            "connected_at": self.connected_at.isoformat() if self.connected_at else None,
            "last_seen": self.last_seen.isoformat(),
            "config": {
                "digest": self.digest,
                "in_force": self.in_force,
                "fetched": self.fetched,
                "current": self.current,
            },
            "faults": dict(self.faults),
            "failing": dict(self.failing),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """One cluster and its replicas."""

    cluster: Cluster
    digest: str
    reason: str  # what made the version in force
    changed_at: datetime
    replicas: tuple[ReplicaStatus, ...]

    def to_json(self) -> dict[str, object]:
        return {
            "id": self.cluster.id,
            "name": self.cluster.name,
            "domain": self.cluster.domain,
            "config": {
                "version": self.cluster.version,
                "digest": self.digest,
                "reason": self.reason,
                "changed_at": self.changed_at.isoformat(),
            },
            "replicas": [replica.to_json() for replica in self.replicas],
        }


def read_status(store: Store, cluster: Cluster, *, console_runs: bool) -> ClusterStatus:
    """The status of one cluster. When the console does not run, nobody is connected, whatever was written last."""
    config = store.config(cluster.id)
    versions = store.versions_of_digests(cluster.id)
    return ClusterStatus(
        cluster=cluster,
        digest=config.digest,
        reason=config.reason,
        changed_at=config.created_at,
        replicas=tuple(
            _replica(replica, versions, config.digest, console_runs=console_runs)
            for replica in store.sightings.replicas(cluster.id)
        ),
    )


def _replica(replica: Replica, versions: Mapping[str, int], current: str, *, console_runs: bool) -> ReplicaStatus:
    nothing = HealthReport(check="")
    build = replica.reports.get(Check.CONFIG_BUILD, nothing)
    bundle = replica.reports.get(bundle_check(BUNDLE_ID), nothing)
    digest = build.attributes.get("digest", "")
    return ReplicaStatus(
        instance=replica.instance,
        hostname=replica.hostname,
        version=replica.version,
        address=replica.address,
        connected=replica.connected and console_runs,
        connected_at=replica.connected_at,
        last_seen=replica.last_seen,
        digest=digest,
        in_force=versions.get(digest),
        fetched=bundle.attributes.get(CAPTURED_HEADERS[0], ""),
        current=digest == current,
        faults={key.removeprefix(FAULT): text for key, text in build.attributes.items() if key.startswith(FAULT)},
        failing={name: report.error for name, report in replica.reports.items() if report.error},
    )
