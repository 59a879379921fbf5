"""`pomerium-agent status`: what the replica on this machine says of itself."""

import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Annotated, Any

import typer

from pomerium_agent.errors import SettingsError

TIMEOUT = 5.0
RATE_SECONDS = 1.0  # between two looks, to tell requests per second
WATCH_SECONDS = 2.0


class UnixConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(str(self._path))


def status(
    control_socket: Annotated[
        Path | None, typer.Option("--socket", help="The replica's control socket; found by itself when there is one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show it again every two seconds, until Ctrl-C.")
    ] = False,
) -> None:
    """Say what is in force, what was left out of it and why, and how each part is doing."""
    from pomerium_agent.cli.screen import screen

    path = control_socket or find_socket()
    found = ask(path, "/overview")
    if as_json and not watch:
        print(json.dumps(found, indent=2))
        return
    while True:
        if as_json:
            print(json.dumps(found), flush=True)
        time.sleep(WATCH_SECONDS if watch else RATE_SECONDS)
        before, found = found, ask(path, "/overview")
        if not as_json:
            print("\033[H\033[2J" * (watch and sys.stdout.isatty()) + "\n".join(screen(found, before)), flush=True)
        if not watch:
            return


def in_force(config: dict[str, Any], now: datetime | None = None) -> str:
    """What visitors get, in a few words."""
    if config["resumed"]:
        return "what envoy had before this agent began; the control plane has not been heard since"
    if not config["offered"]:
        return "nothing yet; the control plane has not told what to serve"
    if config.get("last_good_of"):
        since = ago(config["last_good_of"], now)
        return (
            f"{config['in_force'] or config['offered']}, {config['routes']} routes, as it was last known to be good at "
            f"{config['last_good_of']}{since}; nothing newer was heard since this agent began"
        )
    waiting = "" if config["offered"] == config["in_force"] else f" (envoy has not yet taken {config['offered']})"
    return f"{config['in_force'] or 'nothing yet'}, {config['routes']} routes{waiting}"


def ago(moment: str, now: datetime | None) -> str:
    """How long ago that was, in the largest unit of which it is at least two; nothing for a clock that went back."""
    seconds = int(((now or datetime.now(UTC)) - datetime.fromisoformat(moment)).total_seconds())
    if seconds < 0:
        return ""
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f" ({seconds // size} {unit} ago)"
    return f" ({seconds} seconds ago)"


def ask(control_socket: Path, path: str = "/status", question: object = None) -> dict[str, Any]:
    """What the replica behind `control_socket` answers; a question is sent to it as JSON.

    Raises SettingsError when nobody answers, or the answer is no.
    """
    connection = UnixConnection(control_socket)
    try:
        if question is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(question), {"content-type": "application/json"})
        answer = connection.getresponse()
        found = json.loads(answer.read())
    except (OSError, HTTPException, ValueError) as error:
        raise SettingsError(f"no replica answers on {control_socket}: {error}") from error
    finally:
        connection.close()
    if not isinstance(found, dict):
        raise SettingsError(f"{control_socket} answers, but not as a replica does")
    if answer.status >= 400:
        raise SettingsError(str(found.get("error", f"the replica answers {answer.status}")))
    return found


def find_socket() -> Path:
    """The control socket of the one replica that runs here."""
    sockets = sockets_here(os.environ)
    if len(sockets) == 1:
        return sockets[0]
    if not sockets:
        raise SettingsError("no replica runs on this machine as this user; say --socket PATH to ask another one")
    listed = "\n  ".join(str(path) for path in sockets)
    raise SettingsError(f"several replicas run here; say --socket with one of\n  {listed}")


def sockets_here(environ: Mapping[str, str]) -> list[Path]:
    """The control sockets in the places where this user's replicas have them; only there, if RUNTIME_DIRECTORY says."""
    if environ.get("RUNTIME_DIRECTORY"):
        said = Path(environ["RUNTIME_DIRECTORY"].split(":")[0]) / "control.sock"
        return [said] if said.is_socket() else []
    bases = [Path("/run/pomerium-agent")]
    for base in (environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir()):
        if base:
            bases += Path(base).glob(f"pomerium-agent-{os.getuid()}-*")
    return sorted({base / "control.sock" for base in bases if (base / "control.sock").is_socket()})
