"""What the verbs of `console` have in common: where its data lies, and how the answer is wanted."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

DATA = "POMERIUM_CONSOLE_DATA"
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar=DATA,
        help="Where the console keeps its database and keys. [default: below XDG_DATA_HOME]",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Everything, as JSON.")]
ClusterName = Annotated[str, typer.Option("--cluster", help="The cluster's name.")]


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/pomerium-agent/console`, else below `~/.local/share`."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "pomerium-agent" / "console"


def utc_now() -> datetime:
    """The time, as everything that is stored wants it."""
    return datetime.now(UTC)
