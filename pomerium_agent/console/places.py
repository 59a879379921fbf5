"""Where the names of clusters lead: addresses that replicas call from, and those that an operator says instead."""

import ipaddress
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from pomerium_agent.console.database import Database
from pomerium_agent.console.sightings import Replica
from pomerium_agent.console.store import Cluster, Store
from pomerium_agent.errors import SettingsError
from pomerium_agent.pb.pomerium import config_pb2

DETECTED = "detected"  # the word that takes an address back
TTL = 60  # seconds that resolvers keep an answer
_NAME = re.compile(r"[a-z0-9*_-]+(\.[a-z0-9*_-]+)*")
_NO_DNS_NEEDED = (".localhost",)


@dataclass(frozen=True, slots=True)
class Place:
    """The addresses of one cluster, and whether somebody said so or they were seen."""

    addresses: tuple[str, ...]
    said: bool

    def to_json(self) -> dict[str, object]:
        return {"addresses": list(self.addresses), "source": "set" if self.said else DETECTED}


class Places:
    """What operators said. Its methods block for a moment, as the store's do."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def said(self, cluster_id: str) -> str:
        """The address that was set; empty when it is left to detection."""
        rows = self._db.read("SELECT address FROM cluster_address WHERE cluster_id = ?", (cluster_id,))
        return str(rows[0]["address"]) if rows else ""

    def say(self, cluster_id: str, address: str) -> None:
        """Set the address, or take it back with an empty one."""
        with self._db.write() as db:
            if address:
                db.execute("INSERT OR REPLACE INTO cluster_address VALUES (?, ?)", (cluster_id, address))
            else:
                db.execute("DELETE FROM cluster_address WHERE cluster_id = ?", (cluster_id,))


def set_address(store: Store, cluster: Cluster, text: str) -> str:
    """Say where the names of a cluster lead; DETECTED takes that back. What is kept, or SettingsError."""
    address = "" if text == DETECTED else _checked(text)
    Places(store.database).say(cluster.id, address)
    return address


def place_of(store: Store, cluster: Cluster) -> Place:
    """Where a cluster is: as was said, else where its replicas call from, the connected ones first."""
    said = Places(store.database).said(cluster.id)
    if said:
        return Place((said,), said=True)
    return Place(detected(store.sightings.replicas(cluster.id)), said=False)


def detected(replicas: Iterable[Replica]) -> tuple[str, ...]:
    """The addresses of the replicas that are connected; when none is, of all that are remembered."""
    known = [each for each in replicas if each.address]
    here = [each for each in known if each.connected] or known
    return tuple(sorted({each.address for each in here}, key=lambda text: (":" in text, text)))


def peer_address(peer: str) -> str:
    """The address in what gRPC says of a caller: `ipv4:192.0.2.1:50000`, `ipv6:%5B2001:db8::1%5D:50000`."""
    kind, _, rest = unquote(peer).partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    try:
        address = ipaddress.ip_address(rest.rpartition(":")[0].strip("[]").partition("%")[0])
    except ValueError:
        return ""
    return str(getattr(address, "ipv4_mapped", None) or address)


def _checked(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise SettingsError(
            f"{text!r} is not an IP address; give one as 192.0.2.1 or 2001:db8::1, or `{DETECTED}` for where "
            "replicas call from"
        ) from None


# --- files for those who resolve names ----------------------------------------------------------------


def hosts_lines(cluster: Cluster, place: Place, config: config_pb2.Config) -> Iterator[str]:
    """Lines of a hosts file: every name at or below the starter domain that is in use. It knows no wildcards."""
    yield f"# {cluster.name}: {cluster.domain}"
    if not place.addresses:
        yield "# no replica has been seen yet, and no address was set"
        return
    if cluster.domain.endswith(_NO_DNS_NEEDED):
        yield "# names below localhost lead to the machine that asks, without these lines"
    names, wildcards = names_of(cluster, config)
    for address in place.addresses:
        for name in names:
            yield f"{address}\t{name}"
    for name in wildcards:
        yield f"# a hosts file cannot say {name}; use the zone file"


def zone_lines(cluster: Cluster, place: Place, serial: int) -> Iterator[str]:
    """A zone file (RFC 1035) in which the starter domain and everything below it lead to the cluster."""
    domain = f"{cluster.domain}."
    yield f"; {cluster.name}"
    yield f"$ORIGIN {domain}"
    yield f"$TTL {TTL}"
    yield f"@ IN SOA ns.{domain} hostmaster.{domain} {serial} 3600 600 86400 {TTL}"
    yield f"@ IN NS ns.{domain}"
    if not place.addresses:
        yield "; no replica has been seen yet, and no address was set"
    for name in ("@", "*", "ns"):
        for address in place.addresses:
            yield f"{name} IN {'AAAA' if ':' in address else 'A'} {address}"


def names_of(cluster: Cluster, config: config_pb2.Config) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Hosts at or below the starter domain, of routes and of the login; and those with a wildcard in them."""
    # Strictly names: whoever sends a configuration must not write other lines into somebody's hosts file.
    urls = [getattr(route, "from") for route in config.routes] + [config.settings.authenticate_service_url]
    hosts = {
        cluster.domain,
        *(host for url in urls if _NAME.fullmatch(host := _host(url)) and _below(host, cluster.domain)),
    }
    return tuple(sorted(host for host in hosts if "*" not in host)), tuple(
        sorted(host for host in hosts if "*" in host)
    )


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _below(host: str, domain: str) -> bool:
    return host == domain or host.endswith(f".{domain}")
