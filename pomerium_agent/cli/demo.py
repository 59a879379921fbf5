"""`pomerium-agent demo`."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    port: Annotated[int, typer.Option(help="Port of the first replica; 0 takes a free one.")] = 8443,
    replicas: Annotated[int, typer.Option(min=1, max=9, help="How many replicas to run.")] = 1,
    postgres: Annotated[
        bool, typer.Option("--postgres", help="Keep records in a PostgreSQL that comes and goes with the demo.")
    ] = False,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write one JSON object here when everything answers.", show_default=False)
    ] = None,
    exit_after_ready: Annotated[bool, typer.Option(help="Stop again as soon as everything answers.")] = False,
) -> None:
    """Run a console, a sample upstream and replicas on loopback, and say what to try. Ctrl-C leaves nothing behind."""
    import asyncio

    from pomerium_agent.demo import run_demo
    from pomerium_agent.runtime.log import configure_logging

    configure_logging("error", service="demo")
    asyncio.run(
        run_demo(
            port=port,
            replicas=replicas,
            postgres=postgres,
            ready_file=ready_file,
            exit_after_ready=exit_after_ready,
        )
    )
