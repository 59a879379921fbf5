"""Keys that follow from the shared secret, so that every replica of a cluster has the same ones (authenticate 3.1)."""

import base64
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pomerium_agent.handoff.hpke import derive_key_pair

KEY_BYTES = 32
_HPKE = b"pomerium/hpke"
_HOSTED_CLIENT = b"hosted-authenticate-derived-jwk"
_OURS = b"pomerium-agent/"  # formats that only we read; nobody else derives keys under this name
FNV_OFFSET, FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3


def derive(shared_secret: bytes, info: bytes) -> bytes:
    """32 bytes that follow from the secret for one purpose."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(shared_secret)


@lru_cache(maxsize=16)
def hpke_key(shared_secret: bytes) -> X25519PrivateKey:
    """Who the cluster is in the stateless flow (V-2)."""
    return derive_key_pair(derive(shared_secret, _HPKE))


def hosted_client_key(shared_secret: bytes) -> Ed25519PrivateKey:
    """Who the cluster is to the hosted service as an OIDC provider (authenticate 5.4, V-8)."""
    return Ed25519PrivateKey.from_private_bytes(derive(shared_secret, _HOSTED_CLIENT))


def hosted_client_secret(shared_secret: bytes) -> str:
    """The same key, as it stands where others have a client secret: seed and public key in base64."""
    key = hosted_client_key(shared_secret)
    return base64.b64encode(key.private_bytes_raw() + key.public_key().public_bytes_raw()).rstrip(b"=").decode()


def purpose_key(shared_secret: bytes, purpose: str) -> bytes:
    """A key of our own for one of our own formats (G-10): never the shared secret itself."""
    return derive(shared_secret, _OURS + purpose.encode())


def etag_of(public_key: bytes) -> str:
    """FNV-1 of 64 bits, in hex without leading zeros: how a published key is told from others (authenticate 3.5)."""
    value = FNV_OFFSET
    for byte in public_key:
        value = (value * FNV_PRIME % 2**64) ^ byte
    return f"{value:x}"
