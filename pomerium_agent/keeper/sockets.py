"""The runtime directory and the listening sockets in it, which outlive every agent."""

import errno
import fcntl
import os
import shutil
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from pomerium_agent.errors import AgentError, Retryable, SettingsError

NAMES = ("authorize", "pages", "control")
KEEPER = "keeper"
HEALTH = "health"
AGENTS_OWN = ("ads", "databroker", "metrics")  # each has one of its own, and who is in charge the plain name as well
ENVOY_ADMIN = "envoy-admin.sock"
LONGEST_NAMES = ("databroker-4194304.sock", "hot_udp_parent_99999990")  # the second is Envoy's own, see hot.py
LOCK = "keeper.lock"
BACKLOG = 1024
PASSING = frozenset(
    (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
)
LONGEST_PATH = 107  # bytes of a unix socket's path, on Linux


class RuntimeDir(NamedTuple):
    """The directory, and what we hold in it. `created`: it was not there before, and goes with us."""

    path: Path
    created: bool
    lock: int
    listening: Mapping[str, socket.socket]


@contextmanager
def open_runtime_dir(path: Path, health_address: str = "") -> Iterator[RuntimeDir]:
    """Make `path` ours for as long as the block runs and listen on one socket per name in it, and on that address.

    A new or empty directory gets mode 0700, and the sockets 0600. What a dead predecessor left in it is swept
    away; a living one is an error. On the way out the sockets are gone, and the directory too if it was not there
    before. Raises SettingsError, naming RUNTIME_DIRECTORY, when the directory cannot be used, and Retryable when that
    may pass by itself.
    """
    if max(len(os.fsencode(path / name)) for name in LONGEST_NAMES) > LONGEST_PATH:
        raise SettingsError(f"RUNTIME_DIRECTORY: {path} is too long for unix sockets; choose a shorter path")
    with ExitStack() as stack:
        try:
            created = _make(path)
            if created:
                stack.callback(shutil.rmtree, path, ignore_errors=True)
            lock = _lock(path, stack)
            _sweep(path)
            stack.callback(_sweep, path)
            listening = {name: stack.enter_context(_listen(path / f"{name}.sock")) for name in (*NAMES, KEEPER)}
        except OSError as error:
            raise _why(error, f"RUNTIME_DIRECTORY: cannot use {path}: {error.strerror or error}") from error
        if health_address:
            listening[HEALTH] = stack.enter_context(_listen_tcp(health_address))
        yield RuntimeDir(path, created, lock, listening)


@contextmanager
def adopt_runtime_dir(path: Path, lock: int, listening: Mapping[str, int], *, created: bool) -> Iterator[RuntimeDir]:
    """The same, of a keeper before us in this process, with all that it held open."""
    with ExitStack() as stack:
        if created:
            stack.callback(shutil.rmtree, path, ignore_errors=True)
        stack.callback(os.close, lock)
        stack.callback((path / LOCK).unlink, missing_ok=True)
        stack.callback(_sweep, path)
        adopted = {name: stack.enter_context(socket.socket(fileno=number)) for name, number in listening.items()}
        for name in (*NAMES, KEEPER):
            if name not in adopted:  # of a version before us that had fewer
                adopted[name] = stack.enter_context(_listen(path / f"{name}.sock"))
        yield RuntimeDir(path, created, lock, adopted)


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


def _lock(path: Path, stack: ExitStack) -> int:
    """Keep out a second keeper. The lock goes with the process, however it ends."""
    lock = stack.enter_context((path / LOCK).open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SettingsError(
            f"RUNTIME_DIRECTORY: another pomerium-agent runs in {path}; stop it, or choose another directory"
        ) from error
    stack.callback((path / LOCK).unlink, missing_ok=True)
    return lock.fileno()


def _sweep(path: Path) -> None:
    """Remove sockets that nobody will listen on again: ours, the agent's and Envoy's."""
    for name in (*(f"{name}.sock" for name in (*NAMES, *AGENTS_OWN, KEEPER)), ENVOY_ADMIN):
        (path / name).unlink(missing_ok=True)
    for name in AGENTS_OWN:
        for found in path.glob(f"{name}-*.sock"):
            found.unlink(missing_ok=True)


def sweep_agent(path: Path, pid: int) -> None:
    """Remove what an agent that was killed left behind."""
    for name in AGENTS_OWN:
        (path / f"{name}-{pid}.sock").unlink(missing_ok=True)


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


def _listen_tcp(address: str) -> socket.socket:
    """Raises SettingsError or Retryable; that it is an address was checked with the settings."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        if host and ":" not in host:
            return socket.create_server((host, int(port)), backlog=BACKLOG)
        if not socket.has_dualstack_ipv6():
            return socket.create_server((host or "0.0.0.0", int(port)), backlog=BACKLOG)  # noqa: S104  # as it says
        return socket.create_server((host, int(port)), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=not host)
    except OSError as error:
        raise _why(error, f"HEALTH_CHECK_ADDR: cannot listen on {address}: {error}") from error


def _why(error: OSError, text: str) -> AgentError:
    """What may pass, such as a port that somebody else has just now, ends with a code by which we are started again."""
    return Retryable(text) if error.errno in PASSING else SettingsError(text)
