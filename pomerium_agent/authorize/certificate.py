"""The certificates that a client presented, as they came: whether they are good is another question (client_trust)."""

import base64
import hashlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pomerium_agent.policy.facts import Certificate

REMEMBERED = 512
MAX_CHAIN = 1 << 16  # characters
MAX_CERTIFICATES = 9  # the leaf and eight above it; more are not looked at
# What reading a certificate of whatever make may raise.
UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Presented:
    """A chain with a leaf that can be read. Equal for equal chains."""

    digest: bytes
    leaf: x509.Certificate = field(compare=False, repr=False)
    above: tuple[x509.Certificate, ...] = field(compare=False, repr=False)  # without those that cannot be read
    facts: Certificate = field(compare=False)


def leaf_of(chain: str) -> Certificate | None:
    """The leaf of a URL-encoded PEM chain, trusted or not; None when there is none, or it cannot be read."""
    found = presented(chain)
    return found.facts if found is not None else None


def identity_of(chain: str) -> bytes:
    """Equal where everything is equal that can be seen of a chain; short, since many are kept."""
    found = presented(chain)
    return found.digest if found is not None else b""


def presented(chain: str) -> Presented | None:
    """What a URL-encoded PEM chain holds; None when there is no leaf, or it cannot be read."""
    return _presented(chain) if chain and len(chain) <= MAX_CHAIN else None


@lru_cache(maxsize=REMEMBERED)
def _presented(chain: str) -> Presented | None:
    raw = unquote_to_bytes(chain)
    blocks = _BLOCK.findall(raw)[:MAX_CERTIFICATES]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd certificates: those who made them do not read our log
        found = _read(blocks[0]) if blocks else None
        facts = _facts(found) if found is not None else None
        if found is None or facts is None:
            return None
        return Presented(hashlib.sha256(raw).digest(), found, tuple(_readable(blocks[1:])), facts)


def _readable(blocks: list[bytes]) -> Iterator[x509.Certificate]:
    for block in dict.fromkeys(blocks):
        certificate = _read(block)
        if certificate is not None:
            yield certificate


def _read(block: bytes) -> x509.Certificate | None:
    """One certificate with times that can be read, which are parsed only when they are asked for."""
    try:
        certificate = x509.load_pem_x509_certificate(block)
        return certificate if certificate.not_valid_before_utc and certificate.not_valid_after_utc else None
    except UNREADABLE:
        return None


def _facts(leaf: x509.Certificate) -> Certificate | None:
    try:
        der = leaf.public_bytes(Encoding.DER)
        key = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        names = alternative_names(leaf)
        return Certificate(
            fingerprint=hashlib.sha256(der).hexdigest(),
            spki_hash=base64.b64encode(hashlib.sha256(key).digest()).decode(),
            dns_names=tuple(names.get_values_for_type(x509.DNSName)) if names else (),
            emails=tuple(names.get_values_for_type(x509.RFC822Name)) if names else (),
            uris=tuple(names.get_values_for_type(x509.UniformResourceIdentifier)) if names else (),
        )
    except UNREADABLE:
        return None


def alternative_names(leaf: x509.Certificate) -> x509.SubjectAlternativeName | None:
    """Its subject alternative names, if there are any. Raises UNREADABLE."""
    try:
        return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
