"""The key that signs what upstreams are told: taken from the settings, or derived from the shared secret."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from pomerium_agent.sessions.jwk import COORDINATE_BYTES, public_jwk

DERIVED_INFO = b"derived-jwt-signing-key"
DERIVED_BYTES = 40
_BEGIN_PUBLIC = b"-----BEGIN PUBLIC KEY-----"
# The order of the group of P-256, minus one; d lies in 1…N-1.
_N_MINUS_ONE = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551 - 1

_to_json = json.JSONEncoder(separators=(",", ":")).encode

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def derive_signing_key(shared_secret: bytes) -> ec.EllipticCurvePrivateKey:
    """The key that every replica of a cluster shares when none is configured (A-22)."""
    stream = HKDF(algorithm=hashes.SHA256(), length=DERIVED_BYTES, salt=None, info=DERIVED_INFO).derive(shared_secret)
    return ec.derive_private_key(int.from_bytes(stream, "big") % _N_MINUS_ONE + 1, ec.SECP256R1())


class Signer:
    """Signs JWTs with one key: ES256 for EC on P-256, RS256 for RSA (A-21). Shows nothing of the key but its id.

    Raises ValueError for a key that these cannot use. `kid` is what others know the key by, where that is not its
    thumbprint.
    """

    def __init__(self, key: PrivateKey, kid: str = "") -> None:
        self._key = key
        self.jwk = public_jwk(key)
        self.kid = kid or self.jwk["kid"]
        header = {"alg": self.jwk["alg"], "kid": self.kid, "typ": "JWT"}
        self._header = _encode(json.dumps(header, separators=(",", ":")).encode())

    def __repr__(self) -> str:
        return f"Signer(kid={self.kid!r})"

    def sign(self, payload: Mapping[str, Any]) -> str:
        """The payload as a signed compact JWT."""
        signed = f"{self._header}.{_encode(_to_json(payload).encode())}"
        return f"{signed}.{_encode(self._signature(signed.encode()))}"

    def _signature(self, signed: bytes) -> bytes:
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
        r, s = decode_dss_signature(self._key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(COORDINATE_BYTES, "big") + s.to_bytes(COORDINATE_BYTES, "big")


def read_signer(pem: bytes, kid: str = "") -> Signer:
    """A signer from the first key of a PEM text (EC, PKCS 1, PKCS 8). Raises ValueError, without showing any of it."""
    private = pem.partition(_BEGIN_PUBLIC)[0]
    try:
        key = load_pem_private_key(private, password=None)
    except (ValueError, TypeError):
        raise ValueError("the signing key is not a PEM private key without a password") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ValueError("the signing key is neither EC nor RSA")
    return Signer(key, kid)


def read_published(pem: bytes) -> tuple[Mapping[str, str], ...]:
    """The public keys of a PEM text, which others may have signed with (A-23). Raises ValueError."""
    blocks = pem.split(_BEGIN_PUBLIC)[1:]
    keys = [load_pem_public_key(_BEGIN_PUBLIC + block) for block in blocks]
    return tuple(public_jwk(key) for key in keys if isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
