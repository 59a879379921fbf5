"""`pomerium-agent run`: the keeper, which starts and restarts Envoy and the agent."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="A config file to look for the key pomerium_zero_token in.", show_default=False
    ),
]

PROGRAM = "POMERIUM_AGENT_PROGRAM"


def run(
    config: ConfigFile = None,
    rehearse: Annotated[bool, typer.Option("--rehearse", hidden=True)] = False,
) -> None:
    """Run a replica: POMERIUM_ZERO_TOKEN says for which cluster."""
    from pomerium_agent.keeper import Patience, run_keeper
    from pomerium_agent.settings import read_settings

    settings = read_settings(config_file=config)
    local = settings.local
    patience = Patience(
        notice=local.drain_notice,
        drain=local.drain_seconds,
        envoy_drain=local.handover_seconds / 2,
        envoy_leave=local.handover_seconds,
    )
    program = os.environ.setdefault(PROGRAM, _program(sys.argv[0]))  # the same for a keeper that takes over
    code = run_keeper(
        settings,
        agent_argv=partial(argv_of, "agent", config, program),
        keeper_argv=partial(argv_of, "run", config, program),
        patience=patience,
        rehearse=rehearse,
    )
    raise typer.Exit(code)


def argv_of(verb: str, config: Path | None, program: str = "") -> list[str]:
    """How this is started again, with what is installed now where `program` is.

    Where that leads is looked up each time, so that whoever was started before keeps what it was started with. Not
    with modules that happen to lie in the working directory (-P).
    """
    python = Path(program).resolve().with_name("python") if program else Path(sys.executable)
    return [str(python), "-P", "-m", "pomerium_agent", verb, *(["--config", str(config)] if config else [])]


def _program(started_as: str) -> str:
    """The installed command that this was started as, perhaps by way of links; empty when it was started otherwise."""
    path = Path(started_as).absolute()
    installed = path.name == "pomerium-agent" and path.resolve().with_name("python").exists()
    return str(path) if installed else ""
