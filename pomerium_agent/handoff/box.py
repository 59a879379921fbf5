"""A box that only holders of a key can close or open: XChaCha20-Poly1305, its nonce at the end (authenticate 3.2)."""

import base64
import binascii

import nacl.exceptions
import nacl.utils
from nacl import bindings

from pomerium_agent.errors import HandoffRejected

NONCE_BYTES = bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES


def close_box(key: bytes, plaintext: bytes, *, bound_to: bytes = b"", nonce: bytes | None = None) -> bytes:
    """Ciphertext, tag, nonce. It opens only with the same `bound_to`; `nonce` is random unless a vector gives one."""
    nonce = nacl.utils.random(NONCE_BYTES) if nonce is None else nonce
    return bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, bound_to or None, nonce, key) + nonce


def open_box(key: bytes, box: bytes, *, bound_to: bytes = b"") -> bytes:
    """The plaintext. Raises HandoffRejected for another key, another binding, or damage."""
    if len(box) <= NONCE_BYTES:
        raise HandoffRejected("it is too short to hold anything")
    try:
        return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            box[:-NONCE_BYTES], bound_to or None, box[-NONCE_BYTES:], key
        )
    except (nacl.exceptions.CryptoError, ValueError):
        raise HandoffRejected("it was not made by this cluster, or it is damaged") from None


def encode(data: bytes) -> str:
    """URL-safe base64 with padding."""
    return base64.urlsafe_b64encode(data).decode()


def encode_raw(data: bytes) -> str:
    """URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """From URL-safe base64, with padding or without. Raises HandoffRejected for anything else."""
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raise HandoffRejected("it is not base64") from None
