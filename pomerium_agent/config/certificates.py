"""Certificates for visitors: checked one by one, put in the order in which Envoy prefers them (routes 11)."""

import hashlib
import warnings
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pomerium_agent.config.complaints import Complaints, Unusable
from pomerium_agent.config.pem import parse_pair
from pomerium_agent.config.snapshot import Certificate, Fault
from pomerium_agent.config.sourced import SourcedCertificate

FALLBACK_FROM = datetime(2022, 12, 1, tzinfo=UTC)
FALLBACK_UNTIL = datetime(2050, 12, 1, tzinfo=UTC)
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True, slots=True)
class Checked:
    """A certificate that Envoy will take, and what its order among others depends on."""

    certificate: Certificate
    not_before: datetime
    not_after: datetime

    def valid(self, now: datetime) -> bool:
        return self.not_before <= now <= self.not_after


# Content hash → outcome; checking a key is slow, and most certificates are the same as last time.
CertificateMemory = MutableMapping[bytes, Checked | Unusable]


def collect_certificates(
    sourced: Sequence[SourcedCertificate],
    *,
    now: datetime,
    base: Sequence[Certificate] = (),
    previous: Sequence[Certificate] = (),
    secret: bytes = b"",
    memory: CertificateMemory | None = None,
) -> tuple[tuple[Certificate, ...], tuple[Fault, ...]]:
    """All usable certificates, in order, and a fault for each that is not (R-16).

    `base` are this machine's own: what overlaps one of them is skipped (Z-47). While any certificate is refused,
    those of the `previous` snapshot that cover names otherwise lost stay. Never empty: the last resort is a
    self-signed certificate for `*` out of `secret`.
    """
    memory = {} if memory is None else memory
    faults: list[Fault] = []
    usable: dict[str, Checked] = {}
    refused = False
    used: set[bytes] = set()
    for one in sourced:
        complaints = Complaints(one.label, record_id=one.record_id)
        digest = _digest(one.chain, one.key)
        used.add(digest)
        if digest not in memory:
            memory[digest] = _check(one.chain, one.key)
        outcome = memory[digest]
        if isinstance(outcome, Unusable):
            complaints.refuse("certificate", outcome.reason, outcome.remedy)
            refused = True
        elif overlaps(outcome.certificate.names, base):
            complaints.warn(
                "certificate", "a certificate of this machine covers the same name, and wins", "remove one of the two"
            )
        else:
            usable.setdefault(outcome.certificate.id, outcome)
        faults += complaints.faults
    for digest in memory.keys() - used:
        del memory[digest]
    ordered = list(base)
    kept = _order(list(usable.values()), now)
    for item in kept:
        if item.not_after < now:
            names = ", ".join(item.certificate.names[:3])
            complaints = Complaints(f"certificate for {names}")
            complaints.warn("not_after", f"it expired on {item.not_after:%Y-%m-%d}", "renew it")
            faults += complaints.faults
        ordered.append(item.certificate)
    if refused:
        ordered += [
            old
            for old in previous
            if not old.self_signed_fallback and old not in ordered and not _covered(old.names, ordered)
        ]
    return tuple(ordered) or (fallback_certificate(secret),), tuple(faults)


def overlaps(names: Iterable[str], others: Iterable[Certificate]) -> bool:
    """Whether any of the names is covered by one of the certificates, wildcards considered."""
    others = tuple(others)
    return any(_covers(other, name) for name in names for other in others)


def fallback_certificate(secret: bytes) -> Certificate:
    """The certificate shown when none is configured: self-signed, for `*`, the same bytes on every replica (A18)."""
    seed = HKDF(hashes.SHA256(), 48, salt=None, info=b"pomerium-agent fallback certificate").derive(secret)
    key = ec.derive_private_key(int.from_bytes(seed[:40], "big") % (_P256_ORDER - 1) + 1, ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Pomerium"),
            x509.NameAttribute(NameOID.COMMON_NAME, "no certificate configured"),
        ]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(int.from_bytes(seed[40:], "big") | 1)
        .not_valid_before(FALLBACK_FROM)
        .not_valid_after(FALLBACK_UNTIL)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("*")]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )
    chain = certificate.public_bytes(Encoding.PEM).decode()
    key_text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return Certificate(id=_id(chain, key_text), chain=chain, key=key_text, names=("*",), self_signed_fallback=True)


def check_certificate(chain: bytes, key: bytes) -> Certificate:
    """One certificate that Envoy will take. Raises Unusable."""
    outcome = _check(chain, key)
    if isinstance(outcome, Unusable):
        raise outcome
    return outcome.certificate


def _check(chain: bytes, key: bytes) -> Checked | Unusable:
    try:
        if not key.strip():
            raise Unusable("it has no private key", "send the key together with the certificate")
        chain_text, key_text, leaf = parse_pair(chain, key)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            names = _names(leaf)
            _refuse_must_staple(leaf)
    except Unusable as why:
        return why
    certificate = Certificate(id=_id(chain_text, key_text), chain=chain_text, key=key_text, names=names)
    return Checked(certificate, leaf.not_valid_before_utc, leaf.not_valid_after_utc)


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return tuple(str(attribute.value).lower() for attribute in common[:1])
    except (ValueError, x509.DuplicateExtension):
        raise Unusable("its extensions cannot be read", "issue it again") from None
    dns = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    return (*dns, *(str(address) for address in names.get_values_for_type(x509.IPAddress)))


def _refuse_must_staple(leaf: x509.Certificate) -> None:
    """Envoy refuses the whole listener when it has no OCSP staple to go with such a certificate (routes 11.4)."""
    try:
        features = leaf.extensions.get_extension_for_class(x509.TLSFeature).value
    except (ValueError, x509.ExtensionNotFound):
        return
    if x509.TLSFeatureType.status_request in features:
        raise Unusable("it demands OCSP stapling (must-staple), which is not offered", "issue it without must-staple")


def _order(usable: Sequence[Checked], now: datetime) -> list[Checked]:
    """The default first, then the latest first, so that a renewed certificate wins over the one it renews.

    The default is the first one that was sent, or its renewal: the latest for the same names.
    """
    current = [one.certificate for one in usable if one.valid(now)]
    kept = [one for one in usable if one.not_after >= now or not _covered(one.certificate.names, current)]
    if not kept:
        return []

    def rank(one: Checked) -> tuple[bool, float, str]:
        return not one.valid(now), -one.not_before.timestamp(), one.certificate.id

    wanted = set(usable[0].certificate.names)
    heirs = [one for one in kept if wanted <= set(one.certificate.names)] or kept[:1]
    default = min(heirs, key=rank)
    return [default, *sorted((one for one in kept if one is not default), key=rank)]


def _covered(names: Sequence[str], others: Sequence[Certificate]) -> bool:
    return bool(names) and all(any(_covers(other, name) for other in others) for name in names)


def _covers(other: Certificate, name: str) -> bool:
    wildcard = "*." + name.partition(".")[2]
    return name in other.names or ("." in name and not name.startswith("*") and wildcard in other.names)


def _digest(*parts: bytes) -> bytes:
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "big") + part)
    return total.digest()


def _id(chain: str, key: str) -> str:
    return _digest(chain.encode(), key.encode()).hex()[:32]
