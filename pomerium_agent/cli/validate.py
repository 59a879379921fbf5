"""`pomerium-agent validate FILE`."""

import json
from pathlib import Path
from typing import Annotated

import typer


def validate(
    file: Annotated[Path, typer.Argument(help="A Core configuration file, YAML or JSON.")],
    as_json: Annotated[bool, typer.Option("--json", help="Everything, as JSON.")] = False,
) -> None:
    """Check a configuration file as `console apply` and every replica would, and change nothing.

    Lists everything that is wrong at once, each with line, reason and remedy; exits with 2 if anything is.
    """
    import sys
    from dataclasses import replace
    from datetime import UTC, datetime

    from pomerium_agent.config.reference import example_for
    from pomerium_agent.console.apply import check_file
    from pomerium_agent.console.core_config import read_core_config

    core = read_core_config(file)
    complaints = sorted({*core.complaints, *check_file(core, None, datetime.now(UTC))})
    complaints = [
        replace(each, remedy=f"{each.remedy}; for example {example}") if (example := example_for(each.path)) else each
        for each in complaints
    ]
    refused = [each for each in complaints if not each.warning]
    if as_json:
        found = [each.to_json() for each in complaints]
        print(json.dumps({"file": str(file), "valid": not refused, "complaints": found}, indent=2))
        raise typer.Exit(2 if refused else 0)
    for each in complaints:
        print(f"{'warning: ' if each.warning else ''}{each}", file=sys.stderr)
    if refused:
        print(f"{file}: {len(refused)} thing{'' if len(refused) == 1 else 's'} to correct", file=sys.stderr)
        raise typer.Exit(2)
    count = len(core.config.routes)
    print(f"{file}: {count} route{'' if count == 1 else 's'}, nothing is wrong")
