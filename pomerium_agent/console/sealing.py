"""The console's one key file, and what it protects: secrets sealed at rest, and keys derived for signing."""

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_aead_xchacha20poly1305_ietf_NPUBBYTES,
)
from nacl.exceptions import CryptoError

from pomerium_agent.errors import SettingsError

KEY_FILE = "console.key"
KEY_BYTES = 32


class Seal:
    """Seals and opens small values. Each is bound to its purpose, so that one cannot be put in another's place."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._sealing_key = self.subkey("sealed at rest")

    def __repr__(self) -> str:
        return "Seal(***)"

    def subkey(self, purpose: str) -> bytes:
        """A 32-byte key for one purpose; knowing it says nothing about the others."""
        return hmac.digest(self._key, purpose.encode(), hashlib.sha256)

    def seal(self, value: bytes, purpose: str) -> bytes:
        """The value, encrypted and authenticated, with its nonce in front."""
        nonce = secrets.token_bytes(crypto_aead_xchacha20poly1305_ietf_NPUBBYTES)
        return nonce + crypto_aead_xchacha20poly1305_ietf_encrypt(value, purpose.encode(), nonce, self._sealing_key)

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """The value again; SettingsError when it was sealed with another key, or for another purpose."""
        size = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
        try:
            return crypto_aead_xchacha20poly1305_ietf_decrypt(
                sealed[size:], purpose.encode(), sealed[:size], self._sealing_key
            )
        except (CryptoError, ValueError) as error:
            raise SettingsError(
                f"the console cannot open {purpose}: {KEY_FILE} does not belong to this database; "
                "restore the two together from the same backup"
            ) from error


def open_seal(data_dir: Path, *, create: bool) -> Seal:
    """The seal of a data directory. With `create`, a key file is made when there is none (mode 0600, once)."""
    path = data_dir / KEY_FILE
    if create and not path.exists():
        _create(path)
    try:
        text = path.read_text().strip()
    except FileNotFoundError as error:
        raise SettingsError(
            f"{path} is missing, and without it the secrets in the database cannot be opened; "
            "restore it from the backup of this data directory"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    try:
        key = bytes.fromhex(text)
    except ValueError as error:
        raise SettingsError(f"{path} is damaged: it must hold {2 * KEY_BYTES} hex digits") from error
    if len(key) != KEY_BYTES:
        raise SettingsError(f"{path} is damaged: it must hold {2 * KEY_BYTES} hex digits")
    return Seal(key)


def _create(path: Path) -> None:
    """Write a new key under a private name, then link it: two first starts at once end up with the same key."""
    private = path.with_name(f".{KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(private, path)
        except FileExistsError:
            return  # someone else was first, and theirs is as good
    finally:
        private.unlink()
