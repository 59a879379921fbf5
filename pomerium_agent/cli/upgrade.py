"""`pomerium-agent upgrade`: the replica on this machine goes over to what is installed now, and nobody notices."""

import json
import socket
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pomerium_agent.cli.status import find_socket
from pomerium_agent.errors import SettingsError

PATIENCE = 180.0  # seconds without a word from the keeper; it gives up earlier by itself


def upgrade(
    control_socket: Annotated[
        Path | None, typer.Option("--socket", help="The replica's control socket; found by itself when there is one.")
    ] = None,
    keeper: Annotated[
        bool | None,
        typer.Option(
            "--keeper/--no-keeper",
            help="Replace the keeper, too, or not at all; unless told, when its code is another.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Replace the running agent by the version that is installed now; the old one serves until the new one does.

    Exits with 1 when the new one did not come up; then the old one goes on as if nothing had been.
    """
    began = time.monotonic()
    said: dict[str, Any] = {}
    question: dict[str, object] = {"op": "upgrade", "keeper": {None: "", True: "yes", False: "no"}[keeper]}
    with _ask((control_socket or find_socket()).with_name("keeper.sock"), question) as lines:
        for line in lines:
            said = json.loads(line)
            if "step" in said:
                typer.echo(f"{time.monotonic() - began:5.1f} s  {said['step']}")
            if said.get("done"):
                break
    if not said.get("done"):
        typer.echo("not upgraded: the keeper has hung up; `pomerium-agent status` says what runs", err=True)
        raise typer.Exit(1)
    if said.get("trouble"):
        typer.echo(f"not upgraded, and nothing has changed for visitors: {said['trouble']}", err=True)
        raise typer.Exit(1)
    typer.echo(f"upgraded in {time.monotonic() - began:.1f} s")


class _Answers:
    """What the keeper says, line by line."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb")

    def __enter__(self) -> "_Answers":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._sock.close()

    def __iter__(self) -> "_Answers":
        return self

    def __next__(self) -> bytes:
        try:
            line = self._file.readline()
        except OSError:
            line = b""
        if not line:
            raise StopIteration
        return line


def _ask(path: Path, question: dict[str, object]) -> _Answers:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE)
    try:
        sock.connect(str(path))
        sock.sendall(json.dumps(question).encode() + b"\n")
    except OSError as error:
        sock.close()
        raise SettingsError(
            f"no keeper answers on {path}: {error.strerror or error}; one of an older version has to be restarted"
        ) from error
    return _Answers(sock)
