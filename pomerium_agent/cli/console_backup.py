"""`console backup`: a copy of the console's database, while it runs."""

from pathlib import Path
from typing import Annotated

import typer

from pomerium_agent.cli.console_options import DataDir, default_data_dir


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the copy goes; one of before is replaced.")],
    data_dir: DataDir = None,
) -> None:
    """Copy the console's database, also while it runs. The key that opens its secrets is not part of the copy."""
    from pomerium_agent.console.backup import back_up
    from pomerium_agent.console.sealing import KEY_FILE
    from pomerium_agent.console.store import open_store

    place = data_dir or default_data_dir()
    with open_store(place, create=False) as store:
        size = back_up(store.database, file)
    print(f"{file}: {size:,} bytes. Keep {place / KEY_FILE} as well, somewhere else: the copy opens nothing by itself.")
