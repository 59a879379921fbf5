"""Where the file of a store lies, who may read it, and that one process owns it at a time."""

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pomerium_agent.errors import DatabrokerUnavailable, SettingsError

FILE = "databroker.sqlite"
LOCK = "databroker.lock"


def directory_of(connection: str, environ: Mapping[str, str]) -> Path:
    """The directory that a `file://` connection names (databroker 12); without a path, where this service keeps state.

    Raises SettingsError for anything but an absolute path.
    """
    parts = urlsplit(connection)
    if parts.scheme != "file" or parts.netloc or parts.query or parts.fragment:
        raise SettingsError(
            "databroker storage: a file store is written with three slashes, file:///path/to/directory, "
            "and nothing behind the path"
        )
    path = unquote(parts.path)
    if "\0" in path:
        raise SettingsError("databroker storage: the path of the file store has a NUL character in it")
    return Path(path) if path.strip("/") else _own_directory(environ)


def _own_directory(environ: Mapping[str, str]) -> Path:
    if environ.get("STATE_DIRECTORY"):  # what the service manager set aside for us comes before what users have
        return Path(environ["STATE_DIRECTORY"].split(":")[0]) / "databroker"
    if environ.get("XDG_DATA_HOME"):
        return Path(environ["XDG_DATA_HOME"]) / "pomerium" / "databroker"
    if environ.get("HOME"):
        return Path(environ["HOME"]) / ".local" / "share" / "pomerium" / "databroker"
    return Path("/var/tmp/pomerium/data/databroker")  # noqa: S108  # the reference's; whose it is gets checked


class Ownership:
    """That this process owns the store in a directory, until it gives that up to the agent that takes our place."""

    def __init__(self, lock: int, directory: Path) -> None:
        self._lock = lock
        self.file = directory / FILE

    def give_up(self) -> None:
        """Let another process own it; nothing may be written here any more."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)


@contextmanager
def owned(directory: Path) -> Iterator[Ownership]:
    """Make the directory (0700) and the file (0600) if they are missing, and own them while the block runs.

    Raises DatabrokerUnavailable when another process owns it, or the disk says no, and SettingsError
    for a place that others could write to.
    """
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        _check_ours(directory, stat.S_ISDIR, "a directory")
        lock = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise DatabrokerUnavailable(f"the file store in {directory} cannot be used: {error.strerror}") from error
    try:
        _lock(lock, directory)
        _private_file(directory / FILE)
        yield Ownership(lock, directory)
    finally:
        os.close(lock)  # which unlocks it


def _lock(lock: int, directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
        raise DatabrokerUnavailable(
            f"the file store in {directory} belongs to another agent that runs (process {owner}); a file store has "
            "one owner, and replicas that share records need PostgreSQL"
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def _private_file(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        _check_ours(path, stat.S_ISREG, "a file")
        path.chmod(0o600)
    except OSError as error:
        raise DatabrokerUnavailable(f"the file store {path} cannot be used: {error.strerror}") from error


def _check_ours(path: Path, is_kind: Callable[[int], bool], kind: str) -> None:
    found = path.stat()  # a link to a directory is the operator's choice; the file itself was opened without following
    if not is_kind(found.st_mode):
        raise SettingsError(f"databroker storage: {path} is not {kind}")
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise SettingsError(
            f"databroker storage: {path} belongs to another user, or others may write to it; "
            f"give it to the user of the agent and run `chmod go-w {path}`"
        )
