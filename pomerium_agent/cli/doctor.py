"""`pomerium-agent doctor`: what would keep a replica from working on this machine, and how to mend it."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from pomerium_agent.cli.plain import plain_lines
from pomerium_agent.cli.run import ConfigFile


def doctor(
    config: ConfigFile = None,
    control_socket: Annotated[
        Path | None, typer.Option("--socket", help="The control socket of a replica that runs already.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Every finding, as JSON.")] = False,
) -> None:
    """Look for what is wrong, before a replica runs or while it does; ends with 1 when anything is."""
    from pomerium_agent.cli.checkup import State, examine

    found = []
    for finding in examine(os.environ, config, control_socket):
        found.append(finding)
        if not as_json:
            print(f"{finding.state:<8} {finding.check}: {plain_lines(finding.found)}", flush=True)
            if finding.remedy:
                print(f"         fix: {plain_lines(finding.remedy)}", flush=True)
    count = sum(finding.state is State.FAILED for finding in found)
    if as_json:
        print(json.dumps({"healthy": not count, "findings": [finding._asdict() for finding in found]}, indent=2))
    else:
        print(f"{count} of {len(found)} checks failed" if count else f"nothing is wrong in {len(found)} checks")
    raise typer.Exit(1 if count else 0)
