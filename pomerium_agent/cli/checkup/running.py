"""Whether a replica runs here already, and whether it answers."""

import fcntl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pomerium_agent.cli.checkup.finding import Finding, failed, note, ok
from pomerium_agent.cli.status import ask, sockets_here
from pomerium_agent.errors import SettingsError
from pomerium_agent.settings import Settings

LOCK = "keeper.lock"
Replica = Mapping[str, Any]


def look(settings: Settings, environ: Mapping[str, str], control_socket: Path | None) -> tuple[Replica | None, Finding]:
    """What the replica on this machine says, if there is one, and what to think of it."""
    name = "replica"
    here = _sockets(environ, control_socket)
    if not here:
        held = _held(settings.runtime_dir)
        return None, failed(name, *held) if held else ok(name, "none runs here yet")
    if len(here) > 1:
        listed = ", ".join(map(str, here))
        return None, note(name, f"several run here: {listed}", "stop those you do not need, or name one with --socket")
    try:
        found = ask(here[0])
    except SettingsError as error:
        held = _held(here[0].parent)
        if held:
            return None, failed(name, *held)
        return None, failed(name, str(error), f"remove {here[0]} if no replica is meant to run there")
    return found, ok(name, f"one runs here already, keeper {found['pids']['keeper']}, on {here[0]}")


def find(environ: Mapping[str, str], control_socket: Path | None) -> Path | None:
    """The control socket of the one replica that runs here."""
    here = _sockets(environ, control_socket)
    return here[0] if len(here) == 1 else None


def _sockets(environ: Mapping[str, str], control_socket: Path | None) -> list[Path]:
    return [control_socket] if control_socket else sockets_here(environ)


def _held(directory: Path) -> tuple[str, str] | None:
    """What to say of a keeper that holds `directory`; None when nobody does."""
    try:
        with (directory / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return (
            f"another pomerium-agent holds {directory} and does not answer",
            "look at its log, and stop it or choose another RUNTIME_DIRECTORY",
        )
    except OSError:  # no such file, or not ours to read: said by the check of the directory
        return None
    return None
