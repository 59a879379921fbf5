"""From an operator's file to a new version: read, check as a replica would, compare, store only what differs."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pomerium_agent.config.compile import compile_snapshot
from pomerium_agent.config.snapshot import Fault
from pomerium_agent.console.bundle import build_records
from pomerium_agent.console.clusters import publish
from pomerium_agent.console.complaints import FileRefused
from pomerium_agent.console.core_config import CoreConfig, read_core_config
from pomerium_agent.console.diff import Changes, diff
from pomerium_agent.console.login.offer import Offer
from pomerium_agent.console.store import Cluster, Conflict, KeyedCertificate, Store
from pomerium_agent.errors import ConfigRejected, SettingsError
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.policy.complaints import Complaint

ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of a file."""

    cluster: Cluster
    before: int
    version: int  # the same as `before` when nothing changed or nothing was to be stored
    changes: Changes
    warnings: tuple[Complaint, ...]
    faults: tuple[Complaint, ...]  # stored all the same, because the operator said so

    @property
    def stored(self) -> bool:
        return self.version != self.before

    def to_json(self) -> dict[str, object]:
        return {
            "cluster": self.cluster.name,
            "version_before": self.before,
            "version": self.version,
            "stored": self.stored,
            "changes": self.changes.to_json(),
            "warnings": [each.to_json() for each in self.warnings],
            "faults": [each.to_json() for each in self.faults],
        }


def apply_file(
    store: Store, name: str, file: Path, *, now: datetime, allow_faulty: bool = False, dry_run: bool = False
) -> Applied:
    """Make a file the configuration of a cluster. FileRefused lists everything that is wrong, and changes nothing.

    With `allow_faulty`, items that replicas would put into quarantine are stored all the same; what cannot
    be read is refused in any case.
    """
    cluster = store.cluster(name)
    core = read_core_config(file)
    faults = check_file(core, store.certificate(cluster.id), now, store.logins.offer())
    serious = [each for each in faults if not each.warning]
    if core.refused or (serious and not allow_faulty):
        raise FileRefused((*core.complaints, *faults))
    warnings = (*core.complaints, *(each for each in faults if each.warning))
    for _ in range(ATTEMPTS):
        cluster = store.cluster(cluster.id)
        old = store.config(cluster.id).config if cluster.version else config_pb2.Config()
        changes = diff(old, core.config)
        version = cluster.version
        if changes and not dry_run:
            try:
                version = publish(store, cluster, core.config, reason=f"applied {file.name}", now=now)
            except Conflict:
                continue  # somebody else applied a file just now: compare with theirs
        return Applied(
            cluster=cluster,
            before=cluster.version,
            version=version,
            changes=changes,
            warnings=warnings,
            faults=tuple(serious),
        )
    raise SettingsError(f"cluster {cluster.name} keeps changing while this file is being applied; try again")


def check_file(
    core: CoreConfig, starter: KeyedCertificate | None, now: datetime, login: Offer | None = None
) -> tuple[Complaint, ...]:
    """What a replica would complain about, said in places of the file; nothing twice.

    `starter` and `login` are what the console adds to the file, where the cluster is known.
    """
    records = build_records(core.config, starter, login)
    try:
        _, faults = compile_snapshot(records, now=now)
    except ConfigRejected as error:
        return (Complaint(1, "", str(error), "correct the file", core.file),)
    known = {(each.line, each.path) for each in core.complaints if not each.warning}
    broken = {path.split(".")[0] for _, path in known}  # routes that were not read whole: what follows is noise
    found = (_complaint(fault, core) for fault in faults)
    return tuple(each for each in found if each.path.split(".")[0] not in broken or each.path in ("", "routes"))


def _complaint(fault: Fault, core: CoreConfig) -> Complaint:
    place = core.routes.get(fault.route_id, core.settings)
    path = f"{place.path}.{fault.field}" if place.path and fault.field else place.path or fault.field
    reason = fault.reason if place.path else f"{fault.subject}: {fault.reason}"
    return Complaint(place.line_of(fault.field), path, reason, fault.remedy, core.file, fault.warning)
