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
    digest: str  # of the configuration that its Envoy took, as the replica says; empty: it has not said
    in_force: int | None  # the version with this digest; None: none that is remembered
    fetched: str  # the version it last downloaded, as far as it says
    current: bool
    faults: Mapping[str, str]  # by id: the item, and why it was left out
    notes: Mapping[str, str]  # likewise, where the item serves all the same
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
            "notes": dict(self.notes),
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
    # Our replicas say there what Envoy acknowledged; what was built may still be on its way, or refused.
    tells = any(check in replica.reports for check in (Check.XDS_ROUTES, Check.XDS_LISTENER, Check.XDS_CLUSTER))
    taken = replica.reports.get(Check.XDS_ROUTES, nothing) if tells else build
    digest = taken.attributes.get("digest", "")
    faults, notes = _left_out(build, taken)
    bundle = replica.reports.get(bundle_check(BUNDLE_ID), nothing)
    explained = {report.check for report in (build, taken) if any(key.startswith(FAULT) for key in report.attributes)}
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
        faults=faults,
        notes=notes,
        failing={
            name: report.error for name, report in replica.reports.items() if report.error and name not in explained
        },
    )


def _left_out(*reports: HealthReport) -> tuple[dict[str, str], dict[str, str]]:
    """Faults and notes by id. A fault is part of its check's error; of a note the check is well."""
    faults, notes = dict[str, str](), dict[str, str]()
    for report in reports:
        for key, text in report.attributes.items():
            if key.startswith(FAULT):
                (faults if text in report.error else notes)[key.removeprefix(FAULT)] = text
    return faults, notes
