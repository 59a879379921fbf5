"""HPKE in auth mode (RFC 9180, mode 2): X25519, HKDF-SHA256, ChaCha20-Poly1305, nothing else (authenticate 3.4).

The sender's static key is part of the secret, so whoever can open a message knows who sealed it. `cryptography` has
the base mode only, which proves nothing about the sender.
"""

import hmac
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from pomerium_agent.errors import HandoffRejected

KEY_BYTES = 32
NONCE_BYTES = 12
_KEM_ID = b"KEM\x00\x20"  # DHKEM(X25519, HKDF-SHA256)
_SUITE_ID = b"HPKE\x00\x20\x00\x01\x00\x03"
_VERSION = b"HPKE-v1"
_AUTH_MODE = b"\x02"


def derive_key_pair(ikm: bytes) -> X25519PrivateKey:
    """The private key that follows from key material (RFC 9180 7.1.3)."""
    prk = _labeled_extract(_KEM_ID, b"", b"dkp_prk", ikm)
    return X25519PrivateKey.from_private_bytes(_labeled_expand(_KEM_ID, prk, b"sk", b"", KEY_BYTES))


def public_bytes(key: X25519PrivateKey) -> bytes:
    """The 32 bytes of the public key that belongs to it."""
    return key.public_key().public_bytes_raw()


def seal(
    sender: X25519PrivateKey, receiver: bytes, plaintext: bytes, ephemeral: X25519PrivateKey | None = None
) -> bytes:
    """`enc` ‖ ciphertext ‖ tag, for the owner of the public key `receiver` only.

    `ephemeral` is random unless a test vector gives one. Raises HandoffRejected when `receiver` is no usable key.
    """
    ephemeral = X25519PrivateKey.generate() if ephemeral is None else ephemeral
    shared = _exchange(ephemeral, receiver) + _exchange(sender, receiver)
    enc = public_bytes(ephemeral)
    key, nonce = _schedule(shared, enc + receiver + public_bytes(sender))
    return enc + ChaCha20Poly1305(key).encrypt(nonce, plaintext, None)


def open_sealed(receiver: X25519PrivateKey, sender: bytes, sealed: bytes) -> bytes:
    """The plaintext, sealed for us by the owner of the public key `sender`. Raises HandoffRejected (N-6)."""
    enc, ciphertext = sealed[:KEY_BYTES], sealed[KEY_BYTES:]
    shared = _exchange(receiver, enc) + _exchange(receiver, sender)
    key, nonce = _schedule(shared, enc + public_bytes(receiver) + sender)
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, ciphertext, None)
    except (InvalidTag, ValueError):
        raise HandoffRejected("it was not sealed for us by the expected sender") from None


def _exchange(ours: X25519PrivateKey, theirs: bytes) -> bytes:
    try:
        return ours.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError:  # of another length, or a point of low order
        raise HandoffRejected("it names no usable key") from None


def _schedule(dh: bytes, kem_context: bytes, info: bytes = b"") -> tuple[bytes, bytes]:
    """Key and nonce of the first message of a context (RFC 9180 4.1, 5.1). No PSK; only the RFC's vectors have info."""
    eae_prk = _labeled_extract(_KEM_ID, b"", b"eae_prk", dh)
    shared = _labeled_expand(_KEM_ID, eae_prk, b"shared_secret", kem_context, KEY_BYTES)
    psk_id_hash = _labeled_extract(_SUITE_ID, b"", b"psk_id_hash", b"")
    info_hash = _labeled_extract(_SUITE_ID, b"", b"info_hash", info)
    context = _AUTH_MODE + psk_id_hash + info_hash
    secret = _labeled_extract(_SUITE_ID, shared, b"secret", b"")
    key = _labeled_expand(_SUITE_ID, secret, b"key", context, KEY_BYTES)
    return key, _labeled_expand(_SUITE_ID, secret, b"base_nonce", context, NONCE_BYTES)


def _labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), _VERSION + suite + label + ikm, sha256)


def _labeled_expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """One block of HKDF-Expand, since nothing here is longer than 32 bytes."""
    labeled = length.to_bytes(2, "big") + _VERSION + suite + label + info
    return hmac.digest(prk, labeled + b"\x01", sha256)[:length]
