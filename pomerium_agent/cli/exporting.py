"""`pomerium-agent export` and `console export`: the configuration in force as a Core configuration file."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pomerium_agent.cli.console_options import ClusterName, DataDir, default_data_dir
from pomerium_agent.cli.plain import plain_lines
from pomerium_agent.errors import SettingsError
from pomerium_agent.pb.pomerium import config_pb2

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write it here, for its owner only; it holds secrets.", show_default=False),
]


def export(
    control_socket: Annotated[
        Path | None, typer.Option("--socket", help="The replica's control socket; found by itself when there is one.")
    ] = None,
    output: Output = None,
) -> None:
    """Write what the replica on this machine was told as a Core configuration, keys and secrets included."""
    from pomerium_agent.cli.in_force import of_replica

    _write(of_replica(control_socket), output)


def export_cluster(cluster: ClusterName, data_dir: DataDir = None, output: Output = None) -> None:
    """Write the configuration of a cluster as a Core configuration file, keys and secrets included."""
    from pomerium_agent.cli.in_force import of_cluster

    _write(of_cluster(data_dir or default_data_dir(), cluster), output)


def _write(config: config_pb2.Config, output: Path | None) -> None:
    import sys

    from pomerium_agent.console.core_export import export_core

    exported = export_core(config)
    for note in exported.notes:
        print(f"warning: {plain_lines(note)}", file=sys.stderr)
    if output is None:
        sys.stdout.write(exported.text)
        return
    partial = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(exported.text)
        partial.replace(output)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SettingsError(f"--output: {output} cannot be written: {error.strerror}") from error
    print(f"{output}: {len(config.routes)} route{'' if len(config.routes) == 1 else 's'}", file=sys.stderr)
