"""What replicas say of whether routes can be reached from outside (zero link 16.1). Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pomerium_agent.console.sightings import HealthReport, Replica

CHECK = "routes.reachable"
# What each kind of failure is most likely about, by how its text begins.
_ADVICE = (
    ("DNS error", "its name does not resolve: see `console hosts`"),
    ("connection error", "nothing answers at its address: see `console cluster set-address`, and the firewall"),
    ("invalid certificate", "what answers there has another certificate"),
    ("key not found", "another cluster, or something else, answers there"),
    ("unexpected response", "what answers there is no replica"),
)
_NS = 10**9


@dataclass(frozen=True, slots=True)
class Reachability:
    """The latest check of a cluster. `unreachable` is by host; `note` is what belongs to no host."""

    replica: str  # its host name
    at: datetime
    unreachable: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def well(self) -> bool:
        return not self.unreachable and not self.note

    def to_json(self) -> dict[str, object]:
        return {
            "replica": self.replica,
            "at": self.at.isoformat(),
            "reachable": self.well,
            "unreachable": dict(self.unreachable),
            "note": self.note,
        }

    def lines(self) -> Iterator[str]:
        for host, error in sorted(self.unreachable.items()):
            advice = next((words for kind, words in _ADVICE if error.startswith(kind)), "")
            yield f"NOT reachable: {host}: {error}" + (f" ({advice})" if advice else "")
        if self.note:
            yield f"reachability: {self.note}"


def latest_check(replicas: tuple[Replica, ...]) -> Reachability | None:
    """The newest check there is: only the lease holder checks, and the lease moves."""
    found = [(each.reports[CHECK], each) for each in replicas if CHECK in each.reports]
    if not found:
        return None
    report, replica = max(found, key=lambda pair: pair[0].time_ns)
    unreachable, note = _parsed(report)
    at = datetime.fromtimestamp(min(report.time_ns // _NS, 2**33), UTC)
    return Reachability(replica.hostname or replica.instance, at, unreachable, note)


def _parsed(report: HealthReport) -> tuple[dict[str, str], str]:
    """`<host>: <error>` a line; a line that does not begin with a host belongs to the one before."""
    unreachable: dict[str, str] = {}
    rest: list[str] = []
    last = ""
    for line in report.error.splitlines():
        host, colon, error = line.partition(": ")
        if colon and _is_host(host):
            unreachable[host] = error
            last = host
        elif last:
            unreachable[last] += f" {line.strip()}"
        else:
            rest.append(line)
    return unreachable, " ".join(rest)


def _is_host(word: str) -> bool:
    return "." in word and " " not in word and word.isprintable()
