"""`pomerium-agent import FILE`: an existing Core configuration becomes that of a cluster."""

import json
from pathlib import Path
from typing import Annotated

import typer

FAILED = 1


def import_file(
    file: Annotated[Path, typer.Argument(help="A Core configuration file, YAML or JSON.")],
    allow_faulty: Annotated[bool, typer.Option(help="Send what replicas will put into quarantine, too.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be lost, and send nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Send a configuration to the control plane, for a cluster that no replica has connected to yet.

    POMERIUM_ZERO_TOKEN (or POMERIUM_ZERO_TOKEN_FILE, or the key pomerium_zero_token in FILE) says for which cluster.
    Whatever does not travel is named, with file and line. Ends with 0 when it was taken, with 1 when it was not, with
    2 when the file or a setting is wrong, with 3 when the token is refused.
    """
    import asyncio
    import os
    import socket
    import sys
    from datetime import UTC, datetime

    from pomerium_agent.cli.plain import plain
    from pomerium_agent.console.apply import check_file
    from pomerium_agent.console.complaints import FileRefused
    from pomerium_agent.console.core_config import read_core_config
    from pomerium_agent.console.route_names import name_routes
    from pomerium_agent.settings import read_settings
    from pomerium_agent.zero.importing import read_hints, send_config

    core = read_core_config(file)
    faults = check_file(core, None, datetime.now(UTC))
    complaints = sorted({*core.complaints, *faults})
    if core.refused or (any(not each.warning for each in faults) and not allow_faulty):
        if as_json:
            print(json.dumps({"sent": False, "refused": [each.to_json() for each in complaints]}, indent=2))
        raise FileRefused(complaints)
    count = len(core.config.routes)
    told: dict[str, object] = {"sent": not dry_run, "routes": count, "lost": [each.to_json() for each in complaints]}
    if not as_json:
        for each in complaints:
            print(f"{'warning' if each.warning else 'FAULTY'}: {each}", file=sys.stderr)
    if not dry_run:
        settings = read_settings(config_file=file)
        hints = read_hints(os.environ, sys.argv[0], socket.gethostname())
        done = asyncio.run(send_config(settings, name_routes(core.config).SerializeToString(deterministic=True), hints))
        told |= {"messages": list(done.messages), "warnings": list(done.warnings)}
    if as_json:
        print(json.dumps(told, indent=2))
        return
    if dry_run:
        print(f"dry run: {count} route{'' if count == 1 else 's'} would be sent, and nothing was")
        return
    for warning in done.warnings:
        print(f"warning: {plain(warning)}", file=sys.stderr)
    for message in done.messages:
        print(plain(message))
    print(f"{file}: {count} route{'' if count == 1 else 's'} imported")
