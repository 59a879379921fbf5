"""The runtime directory and the listening sockets in it, which outlive every agent."""

import fcntl
import os
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pomerium_agent.errors import SettingsError

NAMES = ("authorize", "pages", "control")
ADS = "ads.sock"
DATABROKER = "databroker.sock"
ENVOY_ADMIN = "envoy-admin.sock"
LONGEST_NAME = "hot_udp_parent_99999990"  # of what is bound there: one of Envoy's own, see hot.py
METRICS = "metrics.sock"
LOCK = "keeper.lock"
BACKLOG = 1024
LONGEST_PATH = 107  # bytes of a unix socket's path, on Linux


@contextmanager
def open_runtime_dir(path: Path) -> Iterator[Mapping[str, socket.socket]]:
    """Make `path` ours for as long as the block runs and listen on one socket per name in it.

    A new or empty directory gets mode 0700, and the sockets 0600. What a dead predecessor left in it is swept
    away; a living one is an error. On the way out the sockets are gone, and the directory too if it was not there
    before. Raises SettingsError, naming RUNTIME_DIRECTORY, when the directory cannot be used.
    """
    if len(os.fsencode(path / LONGEST_NAME)) > LONGEST_PATH:
        raise SettingsError(f"RUNTIME_DIRECTORY: {path} is too long for unix sockets; choose a shorter path")
    with ExitStack() as stack:
        try:
            listening = _prepare(path, stack)
        except OSError as error:
            raise SettingsError(f"RUNTIME_DIRECTORY: cannot use {path}: {error.strerror or error}") from error
        yield listening


def _prepare(path: Path, stack: ExitStack) -> Mapping[str, socket.socket]:
    if _make(path):
        stack.callback(shutil.rmtree, path, ignore_errors=True)
    _lock(path, stack)
    _sweep(path)
    stack.callback(_sweep, path)
    return {name: stack.enter_context(_listen(path / f"{name}.sock")) for name in NAMES}


def _make(path: Path) -> bool:
    """Create the directory, or check that the one that is there is ours; say whether it is new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=0o700)
        created = True
    except FileExistsError:
        created = False
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise SettingsError(f"RUNTIME_DIRECTORY: {path} is not a directory")
    if found.st_uid != os.geteuid():
        raise SettingsError(f"RUNTIME_DIRECTORY: {path} belongs to another user (uid {found.st_uid})")
    if not any(path.iterdir()):
        path.chmod(0o700)
    elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        # Not ours to close, then: perhaps /tmp, named by mistake.
        raise SettingsError(
            f"RUNTIME_DIRECTORY: others may write to {path}; give pomerium-agent a directory of its own"
        )
    return created


def _lock(path: Path, stack: ExitStack) -> None:
    """Keep out a second keeper. The lock goes with the process, however it ends."""
    lock = stack.enter_context((path / LOCK).open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SettingsError(
            f"RUNTIME_DIRECTORY: another pomerium-agent runs in {path}; stop it, or choose another directory"
        ) from error
    stack.callback((path / LOCK).unlink, missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove sockets that nobody will listen on again: ours, the agent's and Envoy's."""
    for name in (*(f"{name}.sock" for name in NAMES), ADS, DATABROKER, ENVOY_ADMIN, METRICS):
        (path / name).unlink(missing_ok=True)


def _listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock
