"""Which cluster a sign-in is for: known by the keys that follow from its shared secret, held to its own hosts."""

import ipaddress
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import SplitResult, urlsplit

from pomerium_agent.config.complaints import Unusable
from pomerium_agent.config.login import LOCALHOST
from pomerium_agent.config.login_values import parse_programmatic_domains
from pomerium_agent.config.urls import ascii_host, parse_source
from pomerium_agent.console.store import Cluster, Store
from pomerium_agent.errors import HandoffExpired, HandoffRejected
from pomerium_agent.handoff.hpke import public_bytes
from pomerium_agent.handoff.keys import hosted_client_key, hpke_key
from pomerium_agent.handoff.nonce import CALLBACK_PATH
from pomerium_agent.handoff.proof import check_proof
from pomerium_agent.pb.pomerium import config_pb2


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """A cluster, as far as logging in is concerned."""

    cluster_id: str
    name: str
    domain: str
    sender_key: bytes  # HPKE; who it is in the stateless flow
    client_key: bytes  # Ed25519; who it is to the console as an OpenID Connect provider
    shared_secret: bytes = field(repr=False)
    hosts: frozenset[str] = frozenset()  # of its routes, without ports
    wildcards: tuple[tuple[str, str], ...] = ()  # what stands before and after the `*`
    programmatic: tuple[str, ...] = (LOCALHOST,)
    authenticate_url: str = ""  # as configured: its client id as a client of the console
    sign_out_url: str = ""
    passes_tokens: bool = False  # it asked for the tokens of its people

    def serves(self, url: str) -> bool:
        """Whether a URL leads to one of its hosts, by https; ports are the replicas' business."""
        parts = _absolute(url)
        return parts is not None and parts.scheme == "https" and self._has(parts.hostname or "")

    def takes_callback(self, url: str) -> bool:
        """Whether an answer may be sent there (authenticate 11)."""
        parts = _absolute(url)
        return parts is not None and self.serves(url) and parts.path == CALLBACK_PATH and not parts.fragment

    def takes_programmatic(self, url: str) -> bool:
        """Whether a program may be told there who signed in (authenticate 8.6, N-42)."""
        parts = _absolute(url)
        if parts is None or parts.scheme not in ("http", "https"):
            return False
        host = (parts.hostname or "").lower()
        return host in self.programmatic or (LOCALHOST in self.programmatic and _is_loopback(host))

    def _has(self, host: str) -> bool:
        if ":" in host:  # an IPv6 address
            return host in self.hosts
        try:
            host = ascii_host(host)
        except ValueError:
            return False
        return "*" not in host and (host in self.hosts or any(_fits(host, *wildcard) for wildcard in self.wildcards))


class Tenants:
    """Every cluster of a store as a tenant; made anew when what it was made of has changed. Its methods block."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._made: dict[str, tuple[tuple[object, ...], Tenant]] = {}

    def all(self) -> tuple[Tenant, ...]:
        """Every cluster that has a configuration."""
        with self._lock:
            passing = self._store.logins.clusters_with_tokens()
            clusters = [cluster for cluster in self._store.clusters() if cluster.version]
            self._made = {cluster.id: self._tenant(cluster, cluster.id in passing) for cluster in clusters}
            return tuple(tenant for _, tenant in self._made.values())

    def by_sender(self, key: bytes) -> Tenant | None:
        """The cluster that seals with this key."""
        return next((tenant for tenant in self.all() if tenant.sender_key == key), None)

    def by_client_key(self, key: bytes) -> Tenant | None:
        """The cluster that signs with this key."""
        return next((tenant for tenant in self.all() if tenant.client_key == key), None)

    def by_client_id(self, client_id: str) -> tuple[Tenant, ...]:
        """The clusters that call themselves that."""
        return tuple(tenant for tenant in self.all() if client_id and tenant.authenticate_url == client_id)

    def _tenant(self, cluster: Cluster, passes_tokens: bool) -> tuple[tuple[object, ...], Tenant]:
        numbers = (cluster.version, cluster.bootstrap_version, cluster.name, passes_tokens)
        known = self._made.get(cluster.id)
        if known is not None and known[0] == numbers:
            return known
        secret = self._store.secrets(cluster.id).shared_secret
        config = self._store.config(cluster.id).config
        return numbers, build_tenant(cluster, secret, config, passes_tokens=passes_tokens)


def build_tenant(cluster: Cluster, secret: bytes, config: config_pb2.Config, *, passes_tokens: bool = False) -> Tenant:
    """A tenant from what is stored of its cluster. Pure."""
    hosts, wildcards = _hosts(config.routes)
    settings = config.settings
    try:
        programmatic = parse_programmatic_domains(settings.programmatic_redirect_domain_whitelist)
    except Unusable:  # replicas leave it out as well
        programmatic = (LOCALHOST,)
    return Tenant(
        cluster_id=cluster.id,
        name=cluster.name,
        domain=cluster.domain,
        sender_key=public_bytes(hpke_key(secret)),
        client_key=hosted_client_key(secret).public_key().public_bytes_raw(),
        shared_secret=secret,
        hosts=hosts,
        wildcards=wildcards,
        programmatic=programmatic,
        authenticate_url=settings.authenticate_service_url.rstrip("/"),
        sign_out_url=settings.signout_redirect_url,
        passes_tokens=passes_tokens,
    )


def who_proves(tenants: Iterable[Tenant], proof: str, path: str, body: bytes, now: datetime) -> Tenant | None:
    """The cluster whose replica asks; None when no cluster made that proof for this question now (N-48)."""
    for tenant in tenants:
        try:
            check_proof(tenant.shared_secret, proof, path, body, now)
        except HandoffExpired:
            return None
        except HandoffRejected:
            continue
        return tenant
    return None


def _hosts(routes: Iterable[config_pb2.Route]) -> tuple[frozenset[str], tuple[tuple[str, str], ...]]:
    hosts: set[str] = set()
    wildcards: dict[tuple[str, str], None] = {}
    for route in routes:
        try:
            host = parse_source(getattr(route, "from")).host
        except Unusable:  # replicas leave it out as well
            continue
        head, star, tail = host.partition("*")
        if not star:
            hosts.add(host.strip("[]"))
        elif tail.startswith(".") and "*" not in tail:  # a host that may be any host at all is nobody's own
            wildcards[(head, tail)] = None
    return frozenset(hosts), tuple(wildcards)


def _fits(host: str, head: str, tail: str) -> bool:
    return host.startswith(head) and host.endswith(tail) and len(host) > len(head) + len(tail)


def _absolute(url: str) -> SplitResult | None:
    """The parts of a URL with scheme and host and nothing that browsers and we might read differently."""
    if not url.isascii() or not url.isprintable() or "\\" in url or " " in url:
        return None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts if parts.scheme and parts.hostname and "@" not in parts.netloc else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == LOCALHOST
