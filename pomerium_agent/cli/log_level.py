"""`pomerium-agent log-level`: what a replica that runs writes to its log."""

from pathlib import Path
from typing import Annotated

import typer


def log_level(
    level: Annotated[str, typer.Argument(help="Of the agent: trace, debug, info, warn, error, fatal or disabled.")],
    proxy: Annotated[str | None, typer.Option("--proxy", help="Of Envoy; as it is, if not said.")] = None,
    control_socket: Annotated[
        Path | None, typer.Option("--socket", help="The replica's control socket; found by itself when there is one.")
    ] = None,
) -> None:
    """Change the log level of the replica here, at once, until it starts anew or the settings change it."""
    from pomerium_agent.cli.status import ask, find_socket

    wanted = {"agent": level.lower(), **({} if proxy is None else {"proxy": proxy.lower()})}
    for part, found in ask(control_socket or find_socket(), "/log-level", wanted).items():
        print(f"{part} logs {found}")
