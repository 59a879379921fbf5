"""The certificate that a client presented: what policies may ask of its leaf."""

import base64
import hashlib
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pomerium_agent.policy.facts import Certificate

REMEMBERED = 512
MAX_CHAIN = 1 << 17  # characters


def leaf_of(chain: str) -> Certificate | None:
    """The leaf of a URL-encoded PEM chain, trusted or not; None when there is none, or it cannot be read."""
    return _leaf(chain) if chain and len(chain) <= MAX_CHAIN else None


@lru_cache(maxsize=REMEMBERED)
def read_chain(chain: str) -> tuple[x509.Certificate, ...]:
    """The certificates of a URL-encoded PEM chain; none at all when any of it cannot be read."""
    try:
        return tuple(x509.load_pem_x509_certificates(unquote_to_bytes(chain)))
    except ValueError:
        return ()


@lru_cache(maxsize=REMEMBERED)
def _leaf(chain: str) -> Certificate | None:
    certificates = read_chain(chain)
    if not certificates:
        return None
    leaf = certificates[0]
    try:
        der = leaf.public_bytes(Encoding.DER)
        key = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        names = _names(leaf)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return None
    return Certificate(
        fingerprint=hashlib.sha256(der).hexdigest(),
        spki_hash=base64.b64encode(hashlib.sha256(key).digest()).decode(),
        dns_names=tuple(names.get_values_for_type(x509.DNSName)) if names else (),
        emails=tuple(names.get_values_for_type(x509.RFC822Name)) if names else (),
        uris=tuple(names.get_values_for_type(x509.UniformResourceIdentifier)) if names else (),
    )


def _names(leaf: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
