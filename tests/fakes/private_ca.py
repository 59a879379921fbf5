"""An authority that makes server and client certificates for whatever names a test needs."""

import base64
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fakes.authority import Issued


@dataclass(frozen=True, slots=True)
class PrivateCa:
    """One authority; two of them do not trust each other."""

    name: str
    _key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def pem(self) -> bytes:
        """The authority's own certificate."""
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        builder = self._builder(self.name, self._key).add_extension(constraints, critical=True)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    @property
    def base64(self) -> str:
        """The same, as configurations carry it."""
        return base64.b64encode(self.pem).decode()

    def issue(self, *names: str, minutes_old: int = 60) -> Issued:
        """A certificate for DNS names and IP addresses; the first is its common name as well."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        leaf = self._builder(names[0], key, minutes_old).add_extension(alternatives, critical=False)
        return Issued(
            certificate=leaf.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
            key=key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            authority=self.pem,
        )

    def _builder(self, name: str, key: ec.EllipticCurvePrivateKey, minutes_old: int = 60) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=minutes_old))
            .not_valid_after(now + timedelta(days=1))
        )


def server_context(issued: Issued, folder: Path, *, clients_of: PrivateCa | None = None) -> ssl.SSLContext:
    """What a server speaks TLS with; with `clients_of`, only to clients that this authority vouches for."""
    folder.mkdir()
    context = issued.server_context(folder)
    if clients_of is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=clients_of.pem.decode())
    return context


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
