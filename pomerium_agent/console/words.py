"""What the verbs of the console tell a person: values in, lines out."""

from collections.abc import Iterator
from datetime import datetime

from pomerium_agent.console.accounts import ServiceAccount
from pomerium_agent.console.apply import Applied
from pomerium_agent.console.status import ClusterStatus, ReplicaStatus

GONE_SHOWN = 3  # every start of a replica is one of its own, and those that ended are seldom of interest
TOKEN_WORDS = {"old": "still uses the old token", "refused": "last came with a token that is refused now"}
NOBODY_SERVES = "no console is serving this data directory"


def applied_lines(done: Applied, *, dry_run: bool, told: bool) -> Iterator[str]:
    """What changed, and what that means for the replicas."""
    yield from done.changes.lines()
    if not done.changes:
        yield f"nothing changes: cluster {done.cluster.name} stays at version {done.before}"
    elif dry_run:
        yield f"dry run: cluster {done.cluster.name} stays at version {done.before}"
    else:
        yield f"cluster {done.cluster.name} is now at version {done.version}"
        if not told:
            yield f"{NOBODY_SERVES}: replicas hear of it when one does"


def status_lines(found: ClusterStatus, now: datetime) -> Iterator[str]:
    """A cluster, its replicas, and what is wrong with each."""
    cluster = found.cluster
    yield f"{cluster.name}  {cluster.domain}"
    yield f"  version {cluster.version} ({found.reason}, {ago(found.changed_at, now)})"
    if found.place.addresses:
        yield f"  address {', '.join(found.place.addresses)} ({'set' if found.place.said else 'detected'})"
    yield from _token_lines(found)
    if found.users:
        yield f"  {found.users} user{'s' if found.users > 1 else ''} reported so far, by pseudonym"
    if (active := found.active) is not None:
        yield f"  active users: {active.dau or 0} a day, {active.mau or 0} a month ({ago(active.at, now)})"
    if not found.replicas:
        yield "  no replica has been seen yet, or none for a day"
    serving = [each for each in found.replicas if each.connected]
    gone = [each for each in found.replicas if not each.connected]
    gone.sort(key=lambda each: each.last_seen, reverse=True)
    for replica in (*serving, *gone[:GONE_SHOWN]):
        yield from _replica_lines(replica, cluster.version, now)
    if len(gone) > GONE_SHOWN:
        yield f"  and {len(gone) - GONE_SHOWN} more that are not connected; --json lists them"
    if found.reachability is not None:
        for line in found.reachability.lines():
            yield f"  {line}, checked {ago(found.reachability.at, now)} by {found.reachability.replica}"


def _replica_lines(replica: ReplicaStatus, current: int, now: datetime) -> Iterator[str]:
    if replica.connected and replica.connected_at:
        when = f"connected since {ago(replica.connected_at, now)}"
    else:
        when = f"NOT connected, last seen {ago(replica.last_seen, now)}"
    where = f"  from {replica.address}" if replica.address else ""
    leads = "  lease holder" if replica.leads else ""
    name = f"{replica.hostname or '?'}  {replica.instance}"
    yield f"  replica {name}  {when}  agent {replica.version or '?'}{where}{leads}"
    if not replica.digest:
        yield "    has not said yet which configuration is in force"
    elif replica.current:
        yield f"    version {current} is in force"
    else:
        older = f"version {replica.in_force}" if replica.in_force else f"an unknown configuration ({replica.digest})"
        yield f"    {older} is in force, not version {current}"
    if replica.token in TOKEN_WORDS:
        yield f"    {TOKEN_WORDS[replica.token]}"
    for fault_id, text in sorted(replica.faults.items()):
        yield f"    FAULT {fault_id}: {text}"
    for fault_id, text in sorted(replica.notes.items()):
        yield f"    note {fault_id}: {text}"
    for name, error in sorted(replica.failing.items()):
        yield f"    {name}: {error}"


def _token_lines(found: ClusterStatus) -> Iterator[str]:
    old = found.cluster.old_token
    if old is None or not found.token["old"]:
        return
    yield (
        f"  token {found.cluster.fingerprint}; the old one, {old.fingerprint}, is good until "
        f"{old.until:%Y-%m-%d %H:%M} UTC, {count_replicas(found.on_old_token)} still using it"
    )


def count_replicas(number: int) -> str:
    return "1 replica" if number == 1 else f"{number or 'no'} replicas"


def end_of_life(account: ServiceAccount, now: datetime) -> str:
    """Until when an account is good, or that it is not any more."""
    if account.expires_at is None:
        return "never expires"
    return f"{'EXPIRED' if account.expired(now) else 'expires'} on {account.expires_at:%Y-%m-%d %H:%M} UTC"


def ago(time: datetime, now: datetime) -> str:
    """How long ago, in the one unit that says it."""
    seconds = max(int((now - time).total_seconds()), 0)
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"
