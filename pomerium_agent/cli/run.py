"""`pomerium-agent run`: the keeper, which starts and restarts Envoy and the agent."""

import sys
from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="A config file to look for the key pomerium_zero_token in.", show_default=False
    ),
]


def run(
    config: ConfigFile = None,
    rehearse: Annotated[bool, typer.Option("--rehearse", hidden=True)] = False,
) -> None:
    """Run a replica: POMERIUM_ZERO_TOKEN says for which cluster."""
    from pomerium_agent.keeper import Patience, run_keeper
    from pomerium_agent.settings import read_settings

    settings = read_settings(config_file=config)
    patience = Patience(notice=settings.local.drain_notice, drain=settings.local.drain_seconds)
    code = run_keeper(
        settings,
        agent_argv=argv_of("agent", config),
        keeper_argv=argv_of("run", config),
        patience=patience,
        rehearse=rehearse,
    )
    raise typer.Exit(code)


def argv_of(verb: str, config: Path | None) -> list[str]:
    """How this is started again: not with modules that happen to lie in the working directory (-P)."""
    return [sys.executable, "-P", "-m", "pomerium_agent", verb, *(["--config", str(config)] if config else [])]
