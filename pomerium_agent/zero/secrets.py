"""What every replica of a cluster derives from the token alone (zero link 7)."""

import base64
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

# The order of the group of P-256, minus one; d lies in 1…N-1.
_N_MINUS_ONE = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551 - 1
_SIGNING_BYTES, _COOKIE_BYTES, _FILE_BYTES = 40, 32, 32


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedSecrets:
    """The signing key, the cookie secret and the key of the bootstrap file (Z-4). Shows none of them."""

    signing_key: ec.EllipticCurvePrivateKey = field(repr=False)
    kid: str
    cookie_secret: bytes = field(repr=False)
    file_key: bytes = field(repr=False)

    @property
    def signing_key_pem(self) -> bytes:
        """The signing key as PEM `EC PRIVATE KEY`, the text that `signing_key` holds in base64 (Z-5)."""
        return self.signing_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )


def derive_secrets(token: str) -> DerivedSecrets:
    """Everything of section 7, from the token's bytes exactly as configured (Z-3, Z-4)."""
    length = _SIGNING_BYTES + _COOKIE_BYTES + _FILE_BYTES
    stream = HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=b"").derive(token.encode())
    signing, cookie, file = stream[:40], stream[40:72], stream[72:]
    key = ec.derive_private_key(int.from_bytes(signing, "big") % _N_MINUS_ONE + 1, ec.SECP256R1())
    return DerivedSecrets(signing_key=key, kid=_thumbprint(key.public_key()), cookie_secret=cookie, file_key=file)


def _thumbprint(key: ec.EllipticCurvePublicKey) -> str:
    """The RFC 7638 SHA-256 thumbprint in lower-case hex, which is how this protocol writes a key id."""
    point = key.public_numbers()
    text = f'{{"crv":"P-256","kty":"EC","x":"{_base64url(point.x)}","y":"{_base64url(point.y)}"}}'
    digest = hashes.Hash(hashes.SHA256())
    digest.update(text.encode())
    return digest.finalize().hex()


def _base64url(coordinate: int) -> str:
    return base64.urlsafe_b64encode(coordinate.to_bytes(32, "big")).rstrip(b"=").decode()
