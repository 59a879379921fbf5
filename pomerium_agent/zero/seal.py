"""The sealed file format: XChaCha20-Poly1305 with its nonce at the end (zero link 8.1)."""

from pomerium_agent.errors import ConfigRejected, HandoffRejected
from pomerium_agent.handoff.box import NONCE_BYTES, close_box, open_box


def seal(key: bytes, plaintext: bytes, nonce: bytes | None = None) -> bytes:
    """Ciphertext, tag, then the nonce; the nonce is random unless a test vector gives one (Z-6)."""
    return close_box(key, plaintext, nonce=nonce)


def unseal(key: bytes, sealed: bytes) -> bytes:
    """The plaintext. Raises ConfigRejected when it is too short or was sealed with another key (Z-7)."""
    if len(sealed) <= NONCE_BYTES:
        raise ConfigRejected(f"sealed data of {len(sealed)} bytes is too short to hold anything; it was cut off")
    try:
        return open_box(key, sealed)
    except HandoffRejected as error:
        raise ConfigRejected("sealed data cannot be opened: damaged, or sealed with another cluster token") from error
