"""Certificates and keys out of what operators and control planes send: PEM, or base64 of PEM (R-3)."""

import base64
import binascii
import re
import warnings

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from pomerium_agent.config.complaints import Unusable

MIN_RSA_BITS = 2048
CURVES = ("secp256r1", "secp384r1", "secp521r1")
_BEGIN = "-----BEGIN "
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----[^-]*-----END \1-----\n?")

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
SigningKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


def pem_text(material: str | bytes) -> str:
    """The PEM text, whether it came as it is or as base64 of it. Raises Unusable, and never repeats the material."""
    try:
        text = material.decode() if isinstance(material, bytes) else material
        if _BEGIN not in text:
            text = base64.b64decode("".join(text.split()), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        raise Unusable("it is neither PEM nor base64 of PEM", "paste the file from -----BEGIN to -----END") from None
    if _BEGIN not in text:
        raise Unusable("it is base64, but not of PEM", "encode the file that begins with -----BEGIN")
    return text.strip() + "\n"


def parse_certificates(material: str | bytes) -> tuple[str, tuple[x509.Certificate, ...]]:
    """One certificate or more, as PEM text and parsed. Raises Unusable."""
    text = pem_text(material)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old certificates that are still good enough for Envoy
            certificates = x509.load_pem_x509_certificates(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable("it holds no certificate that can be read", "check that the file is complete") from None
    return text, tuple(certificates)


def parse_ca_bundle(material: str | bytes) -> str:
    """Certificates of authorities, as PEM text."""
    return parse_certificates(material)[0]


def parse_private_key(material: str | bytes) -> tuple[str, PrivateKey]:
    """A private key that Envoy can use, as PEM text and parsed. Raises Unusable."""
    text = pem_text(material)
    try:
        key = load_pem_private_key(text.encode(), password=None)
    except TypeError:
        raise Unusable("the key is encrypted", "store it without a pass phrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable("it holds no private key that can be read", "check that the file is complete") from None
    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < MIN_RSA_BITS:
            raise Unusable(
                f"an RSA key of {key.key_size} bits is too short", f"use {MIN_RSA_BITS} bits or more, or an EC key"
            )
        return text, key
    if isinstance(key, ec.EllipticCurvePrivateKey):
        if key.curve.name not in CURVES:
            raise Unusable(f"the curve {key.curve.name} is not supported", "use P-256, P-384 or P-521")
        return text, key
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return text, key
    raise Unusable("the key is of a kind that Envoy cannot use", "use an EC (P-256) or RSA key")


def parse_pair(certificate: str | bytes, key: str | bytes) -> tuple[str, str, x509.Certificate]:
    """A chain and the key of its first certificate, both as PEM text, and that certificate. Raises Unusable."""
    chain, certificates = parse_certificates(certificate)
    key_text, private = parse_private_key(key)
    leaf = certificates[0]
    if _public(private.public_key()) != _public_of(leaf):
        raise Unusable(
            "the certificate and the private key do not belong together",
            "replace one of them; the server's own certificate must come first in its chain",
        )
    return chain, key_text, leaf


def parse_signing_keys(material: str) -> str:
    """The private key that signs assertions, and behind it those that are only published, made public (A-21, A-23).

    What is published may be given as a private key, a public one or a certificate (authenticate 8.8).
    """
    blocks = [found[0] for found in _BLOCK.finditer(pem_text(material)) if found[1] != "EC PARAMETERS"]
    if not blocks:
        raise Unusable("it holds no private key that can be read", "check that the file is complete")
    text, key = parse_private_key(blocks[0])
    _check_signs(key.public_key())
    others = [_check_signs(_public_key(block)) for block in blocks[1:]]
    return text + "".join(_public_pem(other) for other in others)


def _check_signs(key: object) -> SigningKey:
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == CURVES[0]:
        return key
    raise Unusable(
        f"a signing key is neither an EC key on P-256 nor an RSA key of {MIN_RSA_BITS} bits or more",
        "make one with openssl ecparam -genkey -name prime256v1",
    )


def _public_key(block: str) -> object:
    try:
        if "PRIVATE KEY-----" in block:
            return parse_private_key(block)[1].public_key()
        if "-----BEGIN CERTIFICATE" in block:
            return parse_certificates(block)[1][0].public_key()
        return load_pem_public_key(block.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable("one of several signing keys cannot be read", "check that the file is complete") from None


def _public_pem(key: SigningKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _public(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _public_of(certificate: x509.Certificate) -> bytes:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable(
            "the certificate's key is of a kind that cannot be read", "use an EC (P-256) or RSA key"
        ) from None
