"""The sealed file format: XChaCha20-Poly1305 with its nonce at the end (zero link 8.1)."""

import nacl.exceptions
import nacl.utils
from nacl import bindings

from pomerium_agent.errors import ConfigRejected

NONCE_BYTES = bindings.crypto_aead_xchacha20poly1305_ietf_NPUBBYTES


def seal(key: bytes, plaintext: bytes, nonce: bytes | None = None) -> bytes:
    """Ciphertext, tag, then the nonce; the nonce is random unless a test vector gives one (Z-6)."""
    nonce = nacl.utils.random(NONCE_BYTES) if nonce is None else nonce
    return bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, None, nonce, key) + nonce


def unseal(key: bytes, sealed: bytes) -> bytes:
    """The plaintext. Raises ConfigRejected when it is too short or was sealed with another key (Z-7)."""
    if len(sealed) <= NONCE_BYTES:
        raise ConfigRejected(f"sealed data of {len(sealed)} bytes is too short to hold anything; it was cut off")
    try:
        return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
            sealed[:-NONCE_BYTES], None, sealed[-NONCE_BYTES:], key
        )
    except (nacl.exceptions.CryptoError, ValueError) as error:
        raise ConfigRejected("sealed data cannot be opened: damaged, or sealed with another cluster token") from error
