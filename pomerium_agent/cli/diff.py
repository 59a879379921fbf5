"""`pomerium-agent diff FILE`: what a file would change, and who would gain or lose access."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pomerium_agent.cli.plain import plain_lines
from pomerium_agent.errors import SettingsError

SAME, CHANGES = 0, 1


def diff(
    file: Annotated[Path, typer.Argument(help="A Core configuration file, YAML or JSON.")],
    cluster: Annotated[
        str, typer.Option(help="Compare with what the console of this machine holds for this cluster.")
    ] = "",
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", envvar="POMERIUM_CONSOLE_DATA", help="Where that console keeps its data."),
    ] = None,
    control_socket: Annotated[
        Path | None,
        typer.Option("--socket", help="Compare with the replica behind this control socket; found by itself."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Say what a file would change: routes, settings, and who gains or loses access to what.

    Against a cluster at the console with --cluster, else against the replica on this machine. Nothing is changed.
    Ends with 0 when there is no difference, with 1 when there is, with 2 when the two cannot be compared.
    """
    import sys
    from datetime import UTC, datetime

    from pomerium_agent.cli.console_options import default_data_dir
    from pomerium_agent.cli.in_force import of_cluster, of_replica
    from pomerium_agent.console.compare import compare
    from pomerium_agent.console.core_config import read_core_config

    if cluster and control_socket is not None:
        raise SettingsError("--cluster and --socket: compare with one of the two")
    core = read_core_config(file)
    for each in core.complaints:
        print(f"{'warning: ' if each.warning else ''}{each}", file=sys.stderr)
    if core.refused:
        raise SettingsError(f"{file} cannot be compared before this is corrected")
    old = of_cluster(data_dir or default_data_dir(), cluster) if cluster else of_replica(control_socket)
    found = compare(old, core.config, datetime.now(UTC))
    if as_json:
        print(json.dumps({"file": str(file), "differs": bool(found)} | found.to_json(), indent=2))
    else:
        print(plain_lines("\n".join(found.lines())) or "nothing changes")
    raise typer.Exit(CHANGES if found else SAME)
