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


def run(config: ConfigFile = None) -> None:
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
    raise typer.Exit(run_keeper(settings, agent_argv=agent_argv(config), patience=patience))


def agent_argv(config: Path | None) -> list[str]:
    """How the keeper starts the agent: not with modules that happen to lie in the working directory (-P)."""
    return [sys.executable, "-P", "-m", "pomerium_agent", "agent", *(["--config", str(config)] if config else [])]
