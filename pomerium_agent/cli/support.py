"""`pomerium-agent support`: what a bug report needs in one file, without secrets, and nothing that was not shown."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pomerium_agent.cli.run import ConfigFile
from pomerium_agent.errors import SettingsError


def support(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where it goes; named by the time if not said.", show_default=False),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write it without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="List what would be in it, as JSON.")] = False,
    no_logs: Annotated[bool, typer.Option("--no-logs", help="Leave the log out.")] = False,
    no_denials: Annotated[bool, typer.Option("--no-denials", help="Leave the requests out that were denied.")] = False,
    no_config: Annotated[bool, typer.Option("--no-config", help="Leave the configuration out.")] = False,
    no_envoy: Annotated[bool, typer.Option("--no-envoy", help="Leave out what Envoy says.")] = False,
    with_people: Annotated[
        bool, typer.Option("--with-people", help="With e-mail addresses, user ids and client addresses.")
    ] = False,
    log_file: Annotated[
        Path | None, typer.Option("--log-file", help="Where the log is, if not in the journal.", show_default=False)
    ] = None,
    config: ConfigFile = None,
    control_socket: Annotated[
        Path | None, typer.Option("--socket", help="The replica's control socket; found by itself when there is one.")
    ] = None,
) -> None:
    """Put together what a bug report needs, with secrets blanked; shows what is inside, and asks, before it is written.

    Works also when the replica does not: then it says what is missing. Nothing is sent anywhere.
    """
    if not (yes or as_json or sys.stdin.isatty()):
        raise SettingsError("nobody can be asked here: look at the list with --json, then write the bundle with --yes")
    from pomerium_agent.cli.dossier import Wanted, gather, pack, write
    from pomerium_agent.cli.dossier.archive import contents

    wanted = Wanted(
        control_socket=control_socket,
        config_file=config,
        log_file=log_file,
        config=not no_config,
        envoy=not no_envoy,
        denials=not no_denials,
        logs=not no_logs,
    )
    evidence = gather(wanted)
    packed = pack(evidence, with_people=with_people)
    path = output or Path(f"pomerium-agent-support-{evidence.at:%Y%m%dT%H%M%SZ}.tar.gz")
    if as_json:
        parts = [
            {
                "name": each.name,
                "what": each.sentence,
                "bytes": None if each.content is None else len(each.content),
                "missing": each.missing,
            }
            for each in packed
        ]
        if yes:
            write(packed, path, int(evidence.at.timestamp()))
        print(json.dumps({"output": str(path) if yes else None, "parts": parts}, indent=2))
        return
    print("\n".join(contents(packed)))
    people = "E-mail addresses, user ids and client addresses are in it" if with_people else "People are left out"
    print(f"\nSecrets are blanked. {people}; names of hosts, routes, upstreams and files are in it.")
    if not yes and not typer.confirm(f"Write this to {path}?"):
        print("nothing was written")
        raise typer.Exit(1)
    size = write(packed, path, int(evidence.at.timestamp()))
    print(f"{path}: {size:,} bytes, readable by you only. Look through it before you give it to anybody.")
