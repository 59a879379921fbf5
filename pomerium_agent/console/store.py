"""What the console knows for good: clusters, their secrets, every version of their configuration, certificates.

All methods block for a moment; on an event loop they are called through `asyncio.to_thread`.
"""

import base64
import json
import sqlite3
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pomerium_agent.console.accounts import Accounts
from pomerium_agent.console.database import Database, open_database
from pomerium_agent.console.login.tables import Logins
from pomerium_agent.console.rotation import OldToken, Rotations, read_old_token
from pomerium_agent.console.sightings import Sightings
from pomerium_agent.console.tokens import fingerprint, token_hash
from pomerium_agent.errors import SettingsError
from pomerium_agent.pb.pomerium import config_pb2

VERSIONS_KEPT = 50  # of one cluster's configuration
_CLUSTERS = (  # with the old token of each, where there is one
    "SELECT cluster.*, old_token.token_hash AS old_hash, old_token.generation AS old_generation, "
    "old_token.until AS old_until FROM cluster LEFT JOIN old_token ON old_token.cluster_id = cluster.id "
)
AUTHORITY = ""  # the row of the certificate table that holds the console's own authority


class NoSuchCluster(SettingsError):
    """The cluster named on the command line does not exist."""


class Conflict(Exception):
    """Somebody else changed the configuration in between: look again and decide again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One cluster, without its secrets."""

    id: str
    name: str
    organization_id: str
    domain: str
    generation: int  # of its token
    bootstrap_version: int
    version: int
    accounts_version: int  # of its service accounts, which are no part of the configuration
    accounts_changed_at: datetime | None
    created_at: datetime
    fingerprint: str = ""  # of its token
    old_token: OldToken | None = None  # which is good as well, until its time has come

    def generations(self, now: datetime) -> tuple[int, ...]:
        """The generations of its token that are good now, the newest first."""
        old = self.old_token
        return (self.generation,) if old is None or now >= old.until else (self.generation, old.generation)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSecrets:
    """What `GET bootstrap` hands to a replica. Sealed at rest."""

    shared_secret: bytes = field(repr=False)
    pseudonymization_key: bytes = field(repr=False)
    storage: str | None = field(default=None, repr=False)  # None: in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredConfig:
    """One version of a cluster's configuration, as applied: the starter certificate is added on the way out."""

    version: int
    config: config_pb2.Config = field(repr=False)
    digest: str
    reason: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyedCertificate:
    """A certificate chain with its key, both PEM."""

    chain: str
    key: str = field(repr=False)
    not_after: datetime


class Store:
    """The console's memory. What is read is a value; nothing read here changes afterwards."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._seal = database.seal
        self.sightings = Sightings(database)
        self.accounts = Accounts(database)
        self.logins = Logins(database)
        self.rotations = Rotations(database)

    @property
    def database(self) -> Database:
        return self._db

    # --- clusters ---------------------------------------------------------------------------------

    def add_cluster(
        self, *, name: str, domain: str, token: str, secrets: ClusterSecrets, now: datetime, organization_id: str
    ) -> Cluster:
        """A new cluster, still without configuration (version 0). SettingsError when its name or domain is taken."""
        cluster_id = uuid.uuid4().hex
        try:
            with self._db.write() as db:
                db.execute(
                    "INSERT INTO cluster VALUES (?, ?, ?, ?, ?, 1, ?, 1, 0, ?, 0, NULL)",
                    (
                        cluster_id,
                        name,
                        organization_id,
                        domain,
                        token_hash(token),
                        self._seal.seal(_secrets_to_bytes(secrets), _secrets_of(cluster_id)),
                        now.isoformat(),
                    ),
                )
        except sqlite3.IntegrityError as error:
            taken = f"the domain {domain}" if "domain" in str(error) else f"the name {name!r}"
            raise SettingsError(f"there is already a cluster with {taken}; choose another") from error
        return self.cluster(cluster_id)

    def clusters(self) -> tuple[Cluster, ...]:
        """Every cluster, by name."""
        return tuple(_cluster(row) for row in self._db.read(_CLUSTERS + "ORDER BY name"))

    def find(self, name_or_id: str) -> Cluster | None:
        """The cluster of this name or id."""
        rows = self._db.read(_CLUSTERS + "WHERE id = ?1 OR name = ?1 ORDER BY id <> ?1", (name_or_id,))
        return _cluster(rows[0]) if rows else None

    def cluster(self, name_or_id: str) -> Cluster:
        """The cluster of this name or id; NoSuchCluster names those there are."""
        found = self.find(name_or_id)
        if found is None:
            names = ", ".join(cluster.name for cluster in self.clusters())
            raise NoSuchCluster(
                f"there is no cluster {name_or_id!r}; "
                + (f"there are: {names}" if names else "create one with `console cluster create NAME`")
            )
        return found

    def secrets(self, cluster_id: str) -> ClusterSecrets:
        """The secrets of a cluster, opened."""
        row = self._db.read("SELECT secrets FROM cluster WHERE id = ?", (cluster_id,))[0]
        return _secrets_from_bytes(self._seal.open(row["secrets"], _secrets_of(cluster_id)))

    def set_secrets(self, cluster_id: str, secrets: ClusterSecrets) -> None:
        """Replace the secrets; replicas are told to fetch their bootstrap again."""
        sealed = self._seal.seal(_secrets_to_bytes(secrets), _secrets_of(cluster_id))
        with self._db.write() as db:
            db.execute(
                "UPDATE cluster SET secrets = ?, bootstrap_version = bootstrap_version + 1 WHERE id = ?",
                (sealed, cluster_id),
            )

    # --- configuration ----------------------------------------------------------------------------

    def add_config(
        self, cluster_id: str, config: config_pb2.Config, *, digest: str, reason: str, now: datetime, expected: int
    ) -> int:
        """Make `config` the next version, and say its number. Conflict unless `expected` is the present one."""
        plain = zlib.compress(config.SerializeToString(deterministic=True), level=1)
        version = expected + 1
        sealed = self._seal.seal(plain, _config_of(cluster_id, version))
        with self._db.write() as db:
            changed = db.execute(
                "UPDATE cluster SET version = ? WHERE id = ? AND version = ?", (version, cluster_id, expected)
            )
            if changed.rowcount != 1:
                raise Conflict
            db.execute(
                "INSERT INTO config VALUES (?, ?, ?, ?, ?, ?)",
                (cluster_id, version, sealed, digest, reason, now.isoformat()),
            )
            db.execute(
                "DELETE FROM config WHERE cluster_id = ? AND version <= ?", (cluster_id, version - VERSIONS_KEPT)
            )
        return version

    def config(self, cluster_id: str) -> StoredConfig:
        """The version in force."""
        rows = self._db.read(
            "SELECT * FROM config WHERE cluster_id = ? ORDER BY version DESC LIMIT 1",
            (cluster_id,),
        )
        if not rows:
            raise SettingsError(
                f"cluster {cluster_id} has no configuration: its creation was interrupted; "
                "apply a file with `console apply`"
            )
        row = rows[0]
        plain = self._seal.open(row["config"], _config_of(cluster_id, row["version"]))
        return StoredConfig(
            version=row["version"],
            config=config_pb2.Config.FromString(zlib.decompress(plain)),
            digest=row["digest"],
            reason=row["reason"],
            created_at=datetime.fromisoformat(row["created_at"]),
        )

    def versions_of_digests(self, cluster_id: str) -> dict[str, int]:
        """The newest version of each digest that is still remembered."""
        rows = self._db.read("SELECT digest, version FROM config WHERE cluster_id = ? ORDER BY version", (cluster_id,))
        return {row["digest"]: row["version"] for row in rows}

    # --- certificates -----------------------------------------------------------------------------

    def certificate(self, cluster_id: str) -> KeyedCertificate | None:
        """The starter certificate of a cluster, or the console's authority for `AUTHORITY`."""
        rows = self._db.read("SELECT * FROM certificate WHERE cluster_id = ?", (cluster_id,))
        if not rows:
            return None
        return KeyedCertificate(
            chain=rows[0]["chain"],
            key=self._seal.open(rows[0]["key"], _key_of(cluster_id)).decode(),
            not_after=datetime.fromisoformat(rows[0]["not_after"]),
        )

    def set_certificate(self, cluster_id: str, certificate: KeyedCertificate) -> None:
        """Put a certificate in the old one's place."""
        sealed = self._seal.seal(certificate.key.encode(), _key_of(cluster_id))
        with self._db.write() as db:
            db.execute(
                "INSERT OR REPLACE INTO certificate VALUES (?, ?, ?, ?)",
                (cluster_id, certificate.chain, sealed, certificate.not_after.isoformat()),
            )

    def add_authority(self, certificate: KeyedCertificate) -> KeyedCertificate:
        """Store the console's authority, unless another process was first: then theirs is the answer."""
        sealed = self._seal.seal(certificate.key.encode(), _key_of(AUTHORITY))
        with self._db.write() as db:
            db.execute(
                "INSERT OR IGNORE INTO certificate VALUES (?, ?, ?, ?)",
                (AUTHORITY, certificate.chain, sealed, certificate.not_after.isoformat()),
            )
        stored = self.certificate(AUTHORITY)
        assert stored is not None  # noqa: S101  # just written, or found written
        return stored

    # --- small facts ------------------------------------------------------------------------------

    def fact(self, key: str, default: str = "") -> str:
        """A small fact about the console itself."""
        rows = self._db.read("SELECT value FROM meta WHERE key = ?", (key,))
        return str(rows[0]["value"]) if rows else default

    def set_fact(self, key: str, value: str) -> None:
        with self._db.write() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def set_fact_once(self, key: str, value: str) -> str:
        """Store a fact unless there is one; the answer is what is stored."""
        with self._db.write() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, value))
        return self.fact(key)


@contextmanager
def open_store(data_dir: Path, *, create: bool = True) -> Iterator[Store]:
    """Open the store of a data directory. SettingsError says what stands in the way."""
    with open_database(data_dir, create=create) as database:
        yield Store(database)


def _cluster(row: sqlite3.Row) -> Cluster:
    return Cluster(
        id=row["id"],
        name=row["name"],
        organization_id=row["organization_id"],
        domain=row["domain"],
        generation=row["generation"],
        fingerprint=fingerprint(row["token_hash"]),
        old_token=read_old_token(row),
        bootstrap_version=row["bootstrap_version"],
        version=row["version"],
        accounts_version=row["accounts_version"],
        accounts_changed_at=datetime.fromisoformat(row["accounts_changed_at"]) if row["accounts_changed_at"] else None,
        created_at=datetime.fromisoformat(row["created_at"]),
    )


def _secrets_to_bytes(secrets: ClusterSecrets) -> bytes:
    return json.dumps(
        {
            "shared_secret": base64.b64encode(secrets.shared_secret).decode(),
            "pseudonymization_key": base64.b64encode(secrets.pseudonymization_key).decode(),
            "storage": secrets.storage,
        }
    ).encode()


def _secrets_from_bytes(plain: bytes) -> ClusterSecrets:
    found = json.loads(plain)
    return ClusterSecrets(
        shared_secret=base64.b64decode(found["shared_secret"]),
        pseudonymization_key=base64.b64decode(found["pseudonymization_key"]),
        storage=found["storage"],
    )


def _secrets_of(cluster_id: str) -> str:
    return f"the secrets of cluster {cluster_id}"


def _config_of(cluster_id: str, version: int) -> str:
    return f"version {version} of the configuration of cluster {cluster_id}"


def _key_of(cluster_id: str) -> str:
    return f"the certificate key of cluster {cluster_id}" if cluster_id else "the key of the console's authority"
