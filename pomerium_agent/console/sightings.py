"""What the console has seen of its replicas: who is connected, what each last said of itself, who signed in."""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from pomerium_agent.console.database import Database

MAX_TEXT = 4_096  # characters of one text a replica sends that are kept
MAX_ATTRIBUTES = 512  # of one report
MAX_AWAY = 1_000  # replicas of one cluster that are kept though they are not connected
MAX_CHECKS = 512  # of one replica


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """How a replica presents itself. `instance` tells replicas of one cluster apart."""

    cluster_id: str
    instance: str
    hostname: str = ""
    version: str = ""
    address: str = ""
    generation: int = 0  # of the cluster token it came with

    def cut(self) -> "Sighting":
        """The same within the limits of what is kept of a replica's words."""
        return replace(
            self,
            instance=self.instance[:MAX_TEXT],
            hostname=self.hostname[:MAX_TEXT],
            version=self.version[:MAX_TEXT],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """The latest word of one replica on one check. `error` is empty when all is well (zero link 13.1)."""

    check: str
    error: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    time_ns: int = 0

    def cut(self) -> "HealthReport":
        """The same report within the limits of what is kept of a replica's words."""
        kept = sorted(self.attributes.items())[:MAX_ATTRIBUTES]
        return HealthReport(
            check=self.check[:MAX_TEXT],
            error=self.error[:MAX_TEXT],
            attributes={key[:MAX_TEXT]: value[:MAX_TEXT] for key, value in kept},
            time_ns=self.time_ns,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One replica as last seen, with its latest report on every check."""

    instance: str
    hostname: str
    version: str
    address: str
    connected: bool
    connected_at: datetime | None
    last_seen: datetime
    generation: int = 0  # of the cluster token it came with last; 0: not known
    reports: Mapping[str, HealthReport] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenUser:
    """One line of a usage report (zero link 4.2). The console never learns who is behind a pseudonym."""

    pseudonymous_id: str
    pseudonymous_email: str
    last_signed_in_at: str


class Sightings:
    """The part of the store that replicas write to. Its methods block for a moment, as the store's do."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def joined(self, replica: Sighting, now: datetime) -> None:
        """A replica has opened a stream."""
        with self._db.write() as db:
            db.execute(
                "INSERT INTO replica VALUES (?, ?, ?, ?, ?, 1, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "hostname = excluded.hostname, version = excluded.version, address = excluded.address, "
                "connected_at = iif(streams = 0, excluded.connected_at, connected_at), "
                "streams = streams + 1, last_seen = excluded.last_seen, generation = excluded.generation",
                (
                    replica.cluster_id,
                    replica.instance,
                    replica.hostname,
                    replica.version,
                    replica.address,
                    now.isoformat(),
                    now.isoformat(),
                    replica.generation,
                ),
            )
            _make_room(db, replica)
            db.execute("INSERT OR IGNORE INTO connected VALUES (?, ?)", (replica.cluster_id, now.isoformat()))

    def ever_connected(self, cluster_id: str) -> bool:
        """Whether any replica of a cluster has ever been here, be it forgotten since."""
        return bool(self._db.read("SELECT 1 FROM connected WHERE cluster_id = ?", (cluster_id,)))

    def left(self, replica: Sighting, now: datetime) -> None:
        """One stream of a replica has ended."""
        with self._db.write() as db:
            db.execute(
                "UPDATE replica SET streams = max(streams - 1, 0), last_seen = ? WHERE cluster_id = ? AND instance = ?",
                (now.isoformat(), replica.cluster_id, replica.instance),
            )

    def still_there(self, now: datetime) -> None:
        """Every connected replica has been seen just now."""
        with self._db.write() as db:
            db.execute("UPDATE replica SET last_seen = ? WHERE streams > 0", (now.isoformat(),))

    def start_over(self) -> None:
        """Nobody is connected: the console has just started."""
        with self._db.write() as db:
            db.execute("UPDATE replica SET streams = 0 WHERE streams > 0")

    def forget(self, before: datetime) -> None:
        """Forget replicas that are not connected and were last seen before that, with all that they said."""
        with self._db.write() as db:
            db.execute("DELETE FROM replica WHERE streams = 0 AND last_seen < ?", (before.isoformat(),))

    def reported(self, replica: Sighting, reports: Iterable[HealthReport], now: datetime) -> None:
        """Keep the latest report on every check; an older one that arrives late changes nothing."""
        with self._db.write() as db:
            db.execute(
                "INSERT INTO replica VALUES (?, ?, ?, ?, ?, 0, NULL, ?, 0) ON CONFLICT DO UPDATE SET "
                "hostname = iif(excluded.hostname = '', hostname, excluded.hostname), "
                "version = iif(excluded.version = '', version, excluded.version), last_seen = excluded.last_seen",
                (
                    replica.cluster_id,
                    replica.instance,
                    replica.hostname,
                    replica.version,
                    replica.address,
                    now.isoformat(),
                ),
            )
            db.executemany(
                "INSERT INTO report VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET error = excluded.error, "
                "attributes = excluded.attributes, time_ns = excluded.time_ns WHERE excluded.time_ns >= time_ns",
                [
                    (
                        replica.cluster_id,
                        replica.instance,
                        report.check,
                        report.error,
                        json.dumps(dict(report.attributes), sort_keys=True),
                        report.time_ns,
                    )
                    for report in (each.cut() for each in reports)
                ],
            )
            _make_room(db, replica)

    def replicas(self, cluster_id: str) -> tuple[Replica, ...]:
        """Every replica of a cluster, by host name, then instance."""
        reports: dict[str, dict[str, HealthReport]] = {}
        for row in self._db.read("SELECT * FROM report WHERE cluster_id = ? ORDER BY name", (cluster_id,)):
            reports.setdefault(row["instance"], {})[row["name"]] = HealthReport(
                check=row["name"],
                error=row["error"],
                attributes=json.loads(row["attributes"]),
                time_ns=row["time_ns"],
            )
        rows = self._db.read("SELECT * FROM replica WHERE cluster_id = ? ORDER BY hostname, instance", (cluster_id,))
        return tuple(
            Replica(
                instance=row["instance"],
                hostname=row["hostname"],
                version=row["version"],
                address=row["address"],
                connected=row["streams"] > 0,
                connected_at=datetime.fromisoformat(row["connected_at"]) if row["connected_at"] else None,
                last_seen=datetime.fromisoformat(row["last_seen"]),
                generation=row["generation"],
                reports=reports.get(row["instance"], {}),
            )
            for row in rows
        )

    def save_bundle_status(self, cluster_id: str, bundle_id: str, status: Mapping[str, object], now: datetime) -> None:
        """What a replica says of one bundle over the API (zero link 4.1; Pomerium itself never calls it)."""
        with self._db.write() as db:
            db.execute(
                "INSERT OR REPLACE INTO bundle_status VALUES (?, ?, ?, ?)",
                (cluster_id, bundle_id[:MAX_TEXT], json.dumps(status, sort_keys=True), now.isoformat()),
            )

    def bundle_status(self, cluster_id: str) -> dict[str, dict[str, object]]:
        """The latest status of each bundle."""
        rows = self._db.read("SELECT * FROM bundle_status WHERE cluster_id = ?", (cluster_id,))
        return {row["bundle_id"]: json.loads(row["status"]) for row in rows}

    def save_usage(self, cluster_id: str, users: Sequence[SeenUser]) -> None:
        """Who signed in, by pseudonym; the latest report on each wins."""
        with self._db.write() as db:
            db.executemany(
                "INSERT OR REPLACE INTO usage VALUES (?, ?, ?, ?)",
                [(cluster_id, u.pseudonymous_id, u.pseudonymous_email, u.last_signed_in_at) for u in users],
            )

    def count_users(self, cluster_id: str) -> int:
        """How many users were reported so far."""
        return int(self._db.read("SELECT count(*) FROM usage WHERE cluster_id = ?", (cluster_id,))[0][0])

    def users(self, cluster_id: str) -> tuple[SeenUser, ...]:
        """Every user reported so far, by pseudonym."""
        rows = self._db.read("SELECT * FROM usage WHERE cluster_id = ? ORDER BY pseudonymous_id", (cluster_id,))
        return tuple(
            SeenUser(
                pseudonymous_id=row["pseudonymous_id"],
                pseudonymous_email=row["pseudonymous_email"],
                last_signed_in_at=row["last_signed_in_at"],
            )
            for row in rows
        )


def _make_room(db: sqlite3.Connection, replica: Sighting) -> None:
    """Whoever has a token can call themselves something else each time, and make up checks: forget the oldest."""
    db.execute(
        "DELETE FROM replica WHERE cluster_id = ?1 AND streams = 0 AND instance NOT IN (SELECT instance FROM replica "
        "WHERE cluster_id = ?1 AND streams = 0 ORDER BY last_seen DESC, instance LIMIT ?2)",
        (replica.cluster_id, MAX_AWAY),
    )
    db.execute(
        "DELETE FROM report WHERE cluster_id = ?1 AND instance = ?2 AND name NOT IN (SELECT name FROM report "
        "WHERE cluster_id = ?1 AND instance = ?2 ORDER BY time_ns DESC, name LIMIT ?3)",
        (replica.cluster_id, replica.instance, MAX_CHECKS),
    )
