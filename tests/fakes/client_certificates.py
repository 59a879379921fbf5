"""Authorities that make client certificates of every kind, good and bad, and lists of those they revoked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
Extensions = Sequence[tuple[x509.ExtensionType, bool]]  # and whether it is critical

CLIENT = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
UPN = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
AUTHORITY = x509.BasicConstraints(ca=True, path_length=None)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def principal(name: str) -> x509.OtherName:
    """A user principal name, as a name of a certificate."""
    encoded = name.encode()
    return x509.OtherName(UPN, bytes((0x0C, len(encoded))) + encoded)


def named(*names: x509.GeneralName) -> tuple[x509.SubjectAlternativeName, bool]:
    return x509.SubjectAlternativeName(names), False


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A certificate with its key."""

    certificate: x509.Certificate
    key: Key = field(repr=False)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    def sign(
        self,
        name: str,
        *extensions: tuple[x509.ExtensionType, bool],
        key: Key | None = None,
        begins: datetime | None = None,
        ends: datetime | None = None,
    ) -> "Signed":
        """Whatever this one is asked to vouch for."""
        return _make(name, key or new_key(), self.certificate.subject, self.key, extensions, begins, ends)

    def authority(self, name: str, *extensions: tuple[x509.ExtensionType, bool], key: Key | None = None) -> "Signed":
        """An authority below this one."""
        return self.sign(name, *(extensions or ((AUTHORITY, True),)), key=key)

    def crl(self, *revoked: "Signed", key: Key | None = None, at: datetime | None = None) -> str:
        """The list of these, as PEM; with another key, one that this authority did not sign. It ends at once."""
        at = at or datetime.now(UTC) - timedelta(minutes=5)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(at).next_update(at + timedelta(days=1))
        for each in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number).revocation_date(at)
            builder = builder.add_revoked_certificate(entry.build())
        made = builder.sign(key or self.key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM).decode()


def root(
    name: str,
    *extensions: tuple[x509.ExtensionType, bool],
    key: Key | None = None,
    begins: datetime | None = None,
    ends: datetime | None = None,
) -> Signed:
    """An authority that nobody vouches for."""
    key = key or new_key()
    return _make(name, key, _name(name), key, extensions or ((AUTHORITY, True),), begins, ends)


def chain_of(*certificates: Signed) -> str:
    """As Envoy tells of it: PEM, leaf first, URL-encoded."""
    return encoded(each.pem for each in certificates)


def encoded(pems: Iterable[str]) -> str:
    return quote("".join(pems), safe="")


def _make(
    name: str,
    key: Key,
    issuer: x509.Name,
    by: Key,
    extensions: Extensions,
    begins: datetime | None,
    ends: datetime | None,
) -> Signed:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins or now - timedelta(days=1))
        .not_valid_after(ends or now + timedelta(days=1))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return Signed(certificate=builder.sign(by, hashes.SHA256()), key=key)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
