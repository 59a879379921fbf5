"""`pomerium-agent health`: one probe, for images that have neither a shell nor curl."""

from http.client import HTTPException
from pathlib import Path
from typing import Annotated

import typer

from pomerium_agent.cli.plain import plain_lines
from pomerium_agent.cli.status import UnixConnection, find_socket
from pomerium_agent.errors import SettingsError

LONGEST_REASON = 200


def health(
    startup: Annotated[bool, typer.Option("--startup", help="Starting is over: visitors have been served.")] = False,
    ready: Annotated[bool, typer.Option("--ready", help="Visitors are served now (unless told otherwise).")] = False,
    live: Annotated[bool, typer.Option("--live", help="The agent answers.")] = False,
    control_socket: Annotated[
        Path | None, typer.Option("--socket", help="The replica's control socket; found by itself when there is one.")
    ] = None,
) -> None:
    """Exit with 0 when the replica on this machine is well, else with 1 and one sentence on why not."""
    if startup + ready + live > 1:
        raise SettingsError("say one of --startup, --ready and --live")
    path = "/startupz" if startup else "/healthz" if live else "/readyz"
    try:
        trouble = probe(control_socket or find_socket(), path)
    except SettingsError as error:
        trouble = str(error)
    if trouble:
        typer.echo(f"not healthy: {plain_lines(trouble)}", err=True)
        raise typer.Exit(1)


def probe(control_socket: Path, path: str) -> str:
    """Why the replica behind `control_socket` fails this probe; empty when it does not."""
    connection = UnixConnection(control_socket)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        said = answer.read(LONGEST_REASON).decode("utf-8", "replace").strip()
    except (OSError, HTTPException) as error:
        return f"no replica answers on {control_socket}: {error}"
    finally:
        connection.close()
    return "" if answer.status == 200 else said or f"it answers {answer.status}"
