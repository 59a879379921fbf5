"""The sealed bootstrap file: read at start, replaced atomically, with the previous good copy beside it."""

import asyncio
import json
import os
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

from pomerium_agent.errors import ConfigRejected
from pomerium_agent.runtime.waiting import in_thread_to_the_end
from pomerium_agent.zero.answers import BootstrapConfig, dump_bootstrap, parse_bootstrap
from pomerium_agent.zero.seal import seal, unseal

MAX_FILE_BYTES = 1024 * 1024
DIRECTORY_MODE = 0o700


class BootstrapFile:
    """One file, sealed with the key derived from the token (zero link 8.1).

    A write is a temporary file, fsync, rename: after a crash there is the old content or the new one, never
    a part (W5). What was there before, if it could be opened, is kept as `<file>.previous`.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self.path = path
        self._key = key

    @property
    def previous(self) -> Path:
        """Where the copy before the present one is kept."""
        return previous_of(self.path)

    def rekey(self, key: bytes) -> None:
        """Seal with another key from now on; the next save writes the file anew."""
        self._key = key

    async def load(self) -> BootstrapConfig | None:
        """What the file holds, else what the previous copy holds; None when there is neither.

        Raises ConfigRejected with the complaint about the file when neither can be used.
        """
        return await asyncio.to_thread(self._load)

    async def save(self, bootstrap: BootstrapConfig) -> None:
        """Replace the file, unless it holds the same already. Raises OSError."""
        await in_thread_to_the_end(partial(self._save, bootstrap))

    def _load(self) -> BootstrapConfig | None:
        complaint: ConfigRejected | None = None
        for path in (self.path, self.previous):
            try:
                if (found := self._read(path)) is not None:
                    return found
            except ConfigRejected as error:
                complaint = complaint or error
        if complaint is not None:
            raise complaint
        return None

    def _read(self, path: Path) -> BootstrapConfig | None:
        try:
            with path.open("rb") as file:
                sealed = file.read(MAX_FILE_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigRejected(f"cannot read {path}: {error.strerror}") from error
        return open_sealed(self._key, sealed)

    def _save(self, bootstrap: BootstrapConfig) -> None:
        try:
            before = self._read(self.path)
        except ConfigRejected:
            before = None
        if before == bootstrap:
            return
        self.path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        if before is not None:
            keep_previous(self.path, self.previous)
        write_atomically(self.path, seal_bootstrap(self._key, bootstrap))


def seal_bootstrap(key: bytes, bootstrap: BootstrapConfig) -> bytes:
    """The bytes that go to a file or a secret."""
    return seal(key, dump_bootstrap(bootstrap))


def open_sealed(key: bytes, sealed: bytes) -> BootstrapConfig:
    """The bootstrap config in sealed bytes, ours or the reference's (Z-6). Raises ConfigRejected."""
    try:
        document: object = json.loads(unseal(key, sealed))
    except (ValueError, RecursionError) as error:
        raise ConfigRejected("the sealed bootstrap config is not JSON") from error
    return parse_bootstrap(document)


def previous_of(path: Path) -> Path:
    """Where the copy before the present one of `path` is kept."""
    return path.with_name(path.name + ".previous")


def keep_previous(path: Path, previous: Path) -> None:
    """Give what `path` holds a second name, in one step and without a moment in which it has none. Raises OSError."""
    spare = path.with_name(path.name + ".spare")
    spare.unlink(missing_ok=True)
    try:
        os.link(path, spare)
    except OSError:  # a file system without hard links
        write_atomically(previous, path.read_bytes())
    else:
        spare.replace(previous)


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` in place of `path` with mode 0600, all of it or nothing, and durably. Raises OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError:
        with suppress(OSError):
            Path(name).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
