"""The console's own certificate authority, and the wildcard certificate of each starter domain (ECDSA P-256)."""

import ipaddress
import os
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pomerium_agent.console.store import AUTHORITY, KeyedCertificate, Store

CA_FILE = "ca.pem"
AUTHORITY_NAME = "pomerium-agent console"  # what the names of all consoles' authorities begin with
AUTHORITY_LIFE = timedelta(days=3650)
LEAF_LIFE = timedelta(days=90)
RENEW_BEFORE = timedelta(days=30)
CLOCKS_DIFFER = timedelta(hours=1)  # how far behind ours a visitor's clock may be


def authority(store: Store, now: datetime) -> KeyedCertificate:
    """The console's authority; made on first use, and the same ever after."""
    return store.certificate(AUTHORITY) or store.add_authority(_new_authority(now))


def write_ca_file(store: Store, now: datetime) -> Path:
    """The authority's certificate, which browsers and curl must trust, as a file beside the database."""
    path = store.database.data_dir / CA_FILE
    chain = authority(store, now).chain
    if not path.exists() or path.read_text() != chain:
        partial = path.with_name(f".{CA_FILE}.{os.getpid()}")
        partial.write_text(chain)
        partial.replace(path)
    return path


def issue_starter(store: Store, cluster_id: str, domain: str, now: datetime) -> KeyedCertificate:
    """A new certificate for `domain` and every name one label below it, stored as the cluster's."""
    certificate = issue(authority(store, now), (domain, f"*.{domain}"), now)
    store.set_certificate(cluster_id, certificate)
    return certificate


def due(certificate: KeyedCertificate, now: datetime) -> bool:
    """Whether it is time to renew."""
    return now >= certificate.not_after - RENEW_BEFORE


def issue(issuer: KeyedCertificate, names: tuple[str, ...], now: datetime) -> KeyedCertificate:
    """A server certificate for DNS names and IP addresses, signed by `issuer`."""
    issuer_certificate = x509.load_pem_x509_certificate(issuer.chain.encode())
    issuer_key = serialization.load_pem_private_key(issuer.key.encode(), password=None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)  # noqa: S101  # `_new_authority` makes no other
    key = ec.generate_private_key(ec.SECP256R1())
    not_after = min(now + LEAF_LIFE, issuer_certificate.not_valid_after_utc)
    certificate = (
        _builder(now, not_after)
        .subject_name(_name(names[0]))
        .issuer_name(issuer_certificate.subject)
        .public_key(key.public_key())
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return KeyedCertificate(chain=_pem(certificate), key=_key_pem(key), not_after=not_after)


def _new_authority(now: datetime) -> KeyedCertificate:
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # The name holds a piece of the key's hash, so that authorities of several consoles can be told apart.
    name = _name(f"{AUTHORITY_NAME} {identifier.digest.hex()[:8]}")
    not_after = now + AUTHORITY_LIFE
    certificate = (
        _builder(now, not_after)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyedCertificate(chain=_pem(certificate), key=_key_pem(key), not_after=not_after)


def _builder(now: datetime, not_after: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(not_after)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
