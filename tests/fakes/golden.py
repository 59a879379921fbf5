"""Golden cases: what somebody configures, a line of dashes, and what Envoy is told of it."""

import base64
import datetime
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import certifi
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.json_format import ParseDict

from pomerium_agent.config.compile import compile_snapshot
from pomerium_agent.config.snapshot import ConfigSnapshot, Fault
from pomerium_agent.envoyconfig import LocalAddresses, build_resources
from pomerium_agent.envoyconfig.resources import CLUSTER, LISTENER, ROUTES, SECRET, EnvoyResources
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Record, pack, type_url
from tests.fakes.static_envoy import as_json

CASES = Path(__file__).parents[1] / "golden" / "cases"
DASHES = "-" * 80 + "\n"
NOW = datetime.datetime(2026, 6, 1, tzinfo=datetime.UTC)
AGENT = ("pomerium-authorize", "pomerium-control-plane-http")


@dataclass(frozen=True, slots=True)
class Case:
    """One file."""

    path: Path
    given: str
    expected: str

    @property
    def document(self) -> dict[str, Any]:
        """The configuration, with throw-away certificates where it asks for them."""
        found: dict[str, Any] = yaml.safe_load(_filled(self.given))
        return found


def cases() -> list[Case]:
    """Every golden case, by name."""
    found = []
    for path in sorted(CASES.glob("*.txt")):
        given, _, expected = path.read_text().partition(DASHES)
        found.append(Case(path, given, expected))
    return found


def compiled(document: dict[str, Any]) -> tuple[ConfigSnapshot, tuple[Fault, ...]]:
    """The configuration as a replica would have it from one `Config` record."""
    config = ParseDict({key: value for key, value in document.items() if key != "show"}, config_pb2.Config())
    record = Record(type=type_url(config_pb2.Config), id="golden", data=pack(config))
    return compile_snapshot([record], now=NOW, secret=b"golden")


def resources_of(snapshot: ConfigSnapshot, directory: str = "/run/agent", *, ipv6: bool = True) -> EnvoyResources:
    """What Envoy is offered for it."""
    local = LocalAddresses(
        authorize_socket=f"{directory}/authorize.sock",
        pages_socket=f"{directory}/pages.sock",
        metrics_socket=f"{directory}/metrics.sock",
        system_ca=_system_roots(),
        ipv6=ipv6,
    )
    return build_resources(snapshot, local)


def shown(document: dict[str, Any]) -> dict[str, Any]:
    """What the golden file shows: by default the routes and clusters that were asked for, and the faults."""
    snapshot, faults = compiled(document)
    resources = resources_of(snapshot)
    parts: dict[str, Callable[[], Any]] = {
        "routes": lambda: _routes(resources),
        "clusters": lambda: {name: v for name, v in as_json(resources, CLUSTER).items() if name not in AGENT},
        "agent": lambda: {name: v for name, v in as_json(resources, CLUSTER).items() if name in AGENT},
        "listeners": lambda: as_json(resources, LISTENER),
        "table": lambda: as_json(resources, ROUTES),
        "secrets": lambda: as_json(resources, SECRET),
        "replies": lambda: "above, in the connection manager",
        "faults": lambda: [str(fault) for fault in faults],
    }
    wanted = document.get("show", ["routes", "clusters"])
    found: dict[str, Any] = {part: parts[part]() for part in wanted}
    if faults:
        found["faults"] = parts["faults"]()
    masked: dict[str, Any] = _masked(found, replies="replies" in wanted)
    return masked


def _routes(resources: EnvoyResources) -> dict[str, Any]:
    """Configured routes by virtual host; the agent's own are the same everywhere and shown by the part `table`."""
    [table] = as_json(resources, ROUTES).values()
    found = {}
    for host in table["virtual_hosts"]:
        routes = [route for route in host["routes"] if "name" in route]
        if routes:
            found[host["name"]] = {"domains": host["domains"], "routes": routes}
    return found


def _masked(value: Any, *, replies: bool) -> Any:
    """Without what differs in each run (certificates, keys, checksums), and without what would drown the rest."""
    if isinstance(value, dict):
        return {key: _masked(each, replies=replies) for key, each in value.items() if _tells(key, replies)}
    if isinstance(value, list):
        return [_masked(each, replies=replies) for each in value]
    if isinstance(value, str):
        if value.startswith("--") and "function envoy_on_request" in value:
            return "<" + value.partition("\n")[0] + ">"
        value = re.sub(r"<style>.*?</style>", "<style>…</style>", value, flags=re.DOTALL)
        if value.count("-----BEGIN ") > 3:
            return "<the system's roots>"
        return re.sub(r"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----\n?", r"<\1>", value, flags=re.DOTALL)
    return value


def _tells(key: str, replies: bool) -> bool:
    return key != "route_checksum" and (replies or key != "local_reply_config")


def _filled(given: str) -> str:
    return re.sub(r"\$\{(chain|key):([^}]+)\}", lambda m: _material(m[2])[0 if m[1] == "chain" else 1], given)


@functools.cache
def _material(name: str) -> tuple[str, str]:
    """A certificate for `name` and its key, each base64 of PEM."""
    chain, key = self_signed(name)
    return base64.b64encode(chain.encode()).decode(), base64.b64encode(key.encode()).decode()


def self_signed(*names: str) -> tuple[str, str]:
    """A certificate for DNS names and its key, both PEM; valid for as long as tests may run."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


@functools.cache
def _system_roots() -> str:
    return Path(certifi.where()).read_text()
