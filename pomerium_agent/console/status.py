"""How a cluster is doing: its replicas, what each has in force, and what each left out and why. Reads only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pomerium_agent.console.bundle import BUNDLE_ID, CAPTURED_HEADERS
from pomerium_agent.console.clusters import describe_token
from pomerium_agent.console.places import Place, place_of
from pomerium_agent.console.reach import CHECK as REACHABLE
from pomerium_agent.console.reach import Reachability, latest_check
from pomerium_agent.console.sightings import HealthReport, Replica
from pomerium_agent.console.store import Cluster, Store
from pomerium_agent.console.telemetry import Telemetry, active_users, read_telemetry
from pomerium_agent.runtime.health import BUNDLES, Check, bundle_check

FORGET_AFTER = timedelta(hours=24)  # a replica that has been silent
XDS = "xds."  # what the checks of configuration that Envoy takes begin with
CURRENT, OLD = "current", "old"  # the token that replicas should have, and the one before while it is good
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
    token: str  # with which it came last: current, old (and still good), refused, or unknown
    failing: Mapping[str, str]  # other checks that are not well: name, error
    leads: bool | None  # whether it holds the lease under which one replica brings the bundle; None: not known

    @property
    def nacks(self) -> Mapping[str, str]:
        """What its Envoy refuses, by check."""
        return {name: error for name, error in self.failing.items() if name.startswith(XDS)}

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
            "nacks": dict(self.nacks),
            "lease_holder": self.leads,
            "token": self.token,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """One cluster and its replicas."""

    cluster: Cluster
    digest: str
    reason: str  # what made the version in force
    changed_at: datetime
    place: Place
    reachability: Reachability | None  # None: nobody has checked yet
    users: int  # that were ever reported
    active: Telemetry | None  # None: nobody has said how many people there are
    replicas: tuple[ReplicaStatus, ...]
    token: Mapping[str, object]  # by what it is known, and the old one while it is good

    @property
    def on_old_token(self) -> int:
        """How many connected replicas still use the old token."""
        return sum(each.connected and each.token == OLD for each in self.replicas)

    def to_json(self) -> dict[str, object]:
        return {
            "id": self.cluster.id,
            "name": self.cluster.name,
            "domain": self.cluster.domain,
            "token": {**self.token, "replicas_on_old": self.on_old_token if self.token["old"] else 0},
            "config": {
                "version": self.cluster.version,
                "digest": self.digest,
                "reason": self.reason,
                "changed_at": self.changed_at.isoformat(),
            },
            "address": self.place.to_json(),
            "reachability": self.reachability.to_json() if self.reachability else None,
            "users": {
                "reported": self.users,
                "dau": self.active.dau if self.active else None,
                "mau": self.active.mau if self.active else None,
                "at": self.active.at.isoformat() if self.active else None,
            },
            "replicas": [replica.to_json() for replica in self.replicas],
        }


def read_status(store: Store, cluster: Cluster, *, console_runs: bool, now: datetime | None = None) -> ClusterStatus:
    """The status of one cluster. When the console does not run, nobody is connected, whatever was written last.

    Given the time, replicas that have been silent for longer than FORGET_AFTER are left out.
    """
    config = store.config(cluster.id)
    good = cluster.generations(now or datetime.now(UTC))
    versions = store.versions_of_digests(cluster.id)
    replicas = tuple(
        each
        for each in store.sightings.replicas(cluster.id)
        if now is None or (each.connected and console_runs) or each.last_seen >= now - FORGET_AFTER
    )
    return ClusterStatus(
        cluster=cluster,
        digest=config.digest,
        reason=config.reason,
        changed_at=config.created_at,
        place=place_of(store, cluster),
        reachability=latest_check(replicas),
        users=store.sightings.count_users(cluster.id),
        active=active_users(read_telemetry(store.database, cluster.id)),
        replicas=tuple(_replica(each, versions, config.digest, good, console_runs=console_runs) for each in replicas),
        token=describe_token(cluster, now or datetime.now(UTC)),
    )


def _replica(
    replica: Replica, versions: Mapping[str, int], current: str, good: Sequence[int], *, console_runs: bool
) -> ReplicaStatus:
    nothing = HealthReport(check="")
    build = replica.reports.get(Check.CONFIG_BUILD, nothing)
    # Our replicas say there what Envoy acknowledged; what was built may still be on its way, or refused.
    tells = any(check in replica.reports for check in (Check.XDS_ROUTES, Check.XDS_LISTENER, Check.XDS_CLUSTER))
    taken = replica.reports.get(Check.XDS_ROUTES, nothing) if tells else build
    digest = taken.attributes.get("digest", "")
    faults, notes = _left_out(build, taken)
    bundle = replica.reports.get(bundle_check(BUNDLE_ID), nothing)
    explained = {report.check for report in (build, taken) if any(key.startswith(FAULT) for key in report.attributes)}
    leads = _leads(replica) if replica.connected and console_runs else None
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
            name: report.error
            for name, report in replica.reports.items()
            if report.error
            and name not in explained
            and name != REACHABLE
            and not (leads is False and name.startswith(BUNDLES))  # of the time when it led
        },
        leads=leads,
        token=_token(replica.generation, good),
    )


def _token(generation: int, good: Sequence[int]) -> str:
    if not generation:
        return "unknown"
    if generation == good[0]:
        return CURRENT
    return OLD if generation in good else "refused"


def _leads(replica: Replica) -> bool | None:
    """What a connected replica says; of others it would be what they said last, who may have been killed since."""
    role = replica.reports.get(Check.ZERO_LEASE, HealthReport(check="")).attributes.get("role")
    return None if role is None else role == "active"


def _left_out(*reports: HealthReport) -> tuple[dict[str, str], dict[str, str]]:
    """Faults and notes by id. A fault is part of its check's error; of a note the check is well."""
    faults, notes = dict[str, str](), dict[str, str]()
    for report in reports:
        for key, text in report.attributes.items():
            if key.startswith(FAULT):
                (faults if text in report.error else notes)[key.removeprefix(FAULT)] = text
    return faults, notes
