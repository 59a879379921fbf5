"""Making clusters: a name, a domain with its certificate, secrets, a token shown once, and a first configuration."""

import secrets
import uuid
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from pomerium_agent.config.digest import records_digest
from pomerium_agent.console.bundle import build_records
from pomerium_agent.console.ca import authority, due, issue_starter, write_ca_file
from pomerium_agent.console.names import checked_domain, starter_domain
from pomerium_agent.console.store import Cluster, ClusterSecrets, Conflict, Store
from pomerium_agent.console.tokens import new_token
from pomerium_agent.errors import SettingsError
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.settings import Secret

ORGANIZATION = "organization_id"
MAX_NAME = 64
NONE = timedelta(0)


@dataclass(frozen=True, slots=True)
class NewCluster:
    """A cluster and its token, which is shown now and never again."""

    cluster: Cluster
    token: Secret


def create_cluster(
    store: Store, name: str, *, now: datetime, domain: str = "", suffix: str = "", storage: str | None = None
) -> NewCluster:
    """A cluster whose replicas have something valid to fetch at once: its certificate, and no routes yet."""
    token = new_token()
    cluster = store.add_cluster(
        name=_checked_name(name),
        domain=checked_domain(domain) if domain else starter_domain(*([suffix] if suffix else [])),
        token=token,
        organization_id=store.set_fact_once(ORGANIZATION, uuid.uuid4().hex),
        secrets=ClusterSecrets(
            shared_secret=secrets.token_bytes(32),
            pseudonymization_key=secrets.token_bytes(32),
            storage=checked_storage(storage),
        ),
        now=now,
    )
    issue_starter(store, cluster.id, cluster.domain, now)
    publish(store, cluster, config_pb2.Config(), reason="created", now=now)
    return NewCluster(store.cluster(cluster.id), token)


def describe(store: Store, cluster: Cluster, now: datetime) -> dict[str, object]:
    """What may be shown of a cluster: no secrets, and of its storage only the kind."""
    storage = store.secrets(cluster.id).storage
    return {
        "id": cluster.id,
        "name": cluster.name,
        "organization_id": cluster.organization_id,
        "domain": cluster.domain,
        "version": cluster.version,
        "token": describe_token(cluster, now),
        "created_at": cluster.created_at.isoformat(),
        "storage": storage.partition("://")[0] if storage else "memory",
        "ca_file": str(write_ca_file(store, now)),
        "ca": authority(store, now).chain,
    }


def describe_token(cluster: Cluster, now: datetime) -> dict[str, object]:
    """By what its token is known, and the old one while it is good."""
    old = cluster.old_token
    good = old is not None and now < old.until
    shown = {"fingerprint": old.fingerprint, "until": old.until.isoformat()} if old is not None and good else None
    return {"fingerprint": cluster.fingerprint, "old": shown}


def rotate_token(store: Store, cluster: Cluster, *, now: datetime | None = None, overlap: timedelta = NONE) -> Secret:
    """A new token for a cluster; the old one is good for `overlap` from `now` on, else it is refused at once.

    SettingsError when a third token would come while two are good, unless both old ones are to be refused at once.
    """
    if now is not None and overlap:
        if len(cluster.generations(now)) > 1 and cluster.old_token is not None:
            raise SettingsError(
                f"cluster {cluster.name} has two tokens until {cluster.old_token.until:%Y-%m-%d %H:%M} UTC, and "
                f"a third would end the oldest; run `console cluster end-overlap {cluster.name}`, or give --overlap 0"
            )
        until = now + overlap
    else:
        until = None
    token = new_token()
    store.rotations.rotate(cluster.id, token, until)
    return token


def set_storage(store: Store, cluster: Cluster, storage: str | None) -> None:
    """Where the replicas of a cluster keep their records; None: each in its own memory."""
    store.set_secrets(cluster.id, replace(store.secrets(cluster.id), storage=checked_storage(storage)))


def publish(store: Store, cluster: Cluster, config: config_pb2.Config, *, reason: str, now: datetime) -> int:
    """Make `config` the next version of a cluster. Conflict when the cluster has moved on since it was read."""
    digest = _digest(store, cluster, config)
    return store.add_config(cluster.id, config, digest=digest, reason=reason, now=now, expected=cluster.version)


def renew_certificates(store: Store, now: datetime) -> tuple[Cluster, ...]:
    """Renew what is about to expire. The clusters that have a new version because of it."""
    renewed = []
    for cluster in store.clusters():
        certificate = store.certificate(cluster.id)
        if certificate is not None and not due(certificate, now):
            continue
        issue_starter(store, cluster.id, cluster.domain, now)
        try:
            config = store.config(cluster.id).config if cluster.version else config_pb2.Config()
            publish(store, cluster, config, reason="certificate renewed", now=now)
        except Conflict:
            continue  # somebody has just applied a file: that version carries the new certificate already
        renewed.append(store.cluster(cluster.id))
    return tuple(renewed)


def republish(store: Store, *, reason: str, now: datetime) -> tuple[Cluster, ...]:
    """Make a new version wherever what the console adds of its own has changed. The clusters that have one."""
    changed = []
    for cluster in store.clusters():
        if not cluster.version:
            continue
        stored = store.config(cluster.id)
        if _digest(store, cluster, stored.config) == stored.digest:
            continue
        try:
            publish(store, cluster, stored.config, reason=reason, now=now)
        except Conflict:
            continue  # somebody has just applied a file: that version carries the change already
        changed.append(store.cluster(cluster.id))
    return tuple(changed)


def _digest(store: Store, cluster: Cluster, config: config_pb2.Config) -> str:
    """What replicas will call this configuration, with what the console adds to it now."""
    return records_digest(build_records(config, store.certificate(cluster.id), store.logins.offer()))


def checked_storage(storage: str | None) -> str | None:
    """A storage connection as a replica understands it (Z-23), or SettingsError. None and `memory`: in memory."""
    if storage is None or storage == "memory":
        return None
    if urlsplit(storage).scheme not in ("postgres", "postgresql", "file"):
        raise SettingsError(
            "--storage: give postgres://user:password@host/database or file:///path, or memory to keep records "
            "in each replica's memory"
        )
    return storage


def _checked_name(name: str) -> str:
    if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
        raise SettingsError(f"a cluster's name is 1 to {MAX_NAME} printable characters")
    return name.strip()
