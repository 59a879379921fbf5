"""Routes, settings, certificates and the records that carry them, written the short way."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from google.protobuf.json_format import ParseDict

from pomerium_agent.config.compile import CompileCache, compile_snapshot
from pomerium_agent.config.digest import CONFIG, KEY_PAIR, POLICY, ROUTE, SETTINGS, VERSIONED_CONFIG
from pomerium_agent.config.snapshot import ConfigSnapshot, Fault
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Payload, Record, pack

NOW = datetime(2030, 6, 1, tzinfo=UTC)


def route(**fields: Any) -> config_pb2.Route:
    """A route that serves unless `fields` spoil it; `from_` stands for `from`, since that is a word of Python."""
    given: dict[str, Any] = {"from": fields.pop("from_", "https://app.example.com")}
    if not fields.keys() & {"to", "redirect", "response"}:
        given["to"] = ["http://app.internal:8080"]
    return ParseDict(given | fields, config_pb2.Route())


def settings(**fields: Any) -> config_pb2.Settings:
    return ParseDict(fields, config_pb2.Settings())


def config(id: str, *routes: config_pb2.Route, **fields: Any) -> Record:
    """A Config record; `fields` are settings."""
    message = config_pb2.Config(name=id, routes=routes)
    if fields:
        message.settings.CopyFrom(settings(**fields))
    return Record(type=CONFIG, id=id, data=pack(message))


def versioned(id: str, *routes: config_pb2.Route, conditions: list[dict[str, str]], **fields: Any) -> Record:
    """A VersionedConfig record."""
    inner = config(id, *routes, **fields).data
    message = config_pb2.VersionedConfig()
    assert inner is not None
    message.config.ParseFromString(inner.value)
    for condition in conditions:
        message.conditions.add(**condition)
    return Record(type=VERSIONED_CONFIG, id=id, data=pack(message))


def entity(id: str, message: Any) -> Record:
    """A Route, Policy, KeyPair or Settings record."""
    types = {
        config_pb2.Route: ROUTE,
        config_pb2.Policy: POLICY,
        config_pb2.KeyPair: KEY_PAIR,
        config_pb2.Settings: SETTINGS,
    }
    return Record(type=types[type(message)], id=id, data=pack(message))


def broken(id: str) -> Record:
    """A Config record cut short."""
    return Record(type=CONFIG, id=id, data=Payload(CONFIG, b"\x12\x7fcut"))


def compiled(
    *records: Record, previous: ConfigSnapshot | None = None, cache: CompileCache | None = None, **options: Any
) -> tuple[ConfigSnapshot, tuple[Fault, ...]]:
    return compile_snapshot(records, now=NOW, previous=previous, cache=cache, secret=b"test", **options)


@lru_cache
def issue(
    *names: str,
    days: int = 365,
    age: int = 1,
    server: bool = True,
    must_staple: bool = False,
    rsa_bits: int = 0,
    number: int = 0,
) -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, PEM. `number` makes another one with the same content."""
    key: Any = rsa.generate_private_key(65537, rsa_bits) if rsa_bits else ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0] if names else f"nobody {number}")])
    begin = NOW - timedelta(days=age)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=days))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), critical=False)
    if server:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    if must_staple:
        builder = builder.add_extension(x509.TLSFeature([x509.TLSFeatureType.status_request]), critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    key_pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), key_pem
