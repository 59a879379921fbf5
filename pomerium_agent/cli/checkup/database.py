"""Whether the database can be reached that the last bootstrap told of."""

import asyncio
from collections.abc import Mapping

from pomerium_agent.cli.checkup.finding import Finding, failed, ok, skipped
from pomerium_agent.databroker.kinds import check_storage, storage_kind
from pomerium_agent.errors import ConfigRejected, DatabrokerUnavailable, SettingsError
from pomerium_agent.settings import Settings
from pomerium_agent.zero.bootstrap_file import BootstrapFile
from pomerium_agent.zero.secrets import derive_secrets

NAME = "database"
SECONDS = 10.0


def check(settings: Settings, environ: Mapping[str, str]) -> Finding:
    """Connect once, as the databroker would; which database, only the sealed bootstrap file knows."""
    if settings.bootstrap_file is None or not settings.bootstrap_file.exists():
        return skipped(NAME, "this machine has not been told of one yet")
    file = BootstrapFile(settings.bootstrap_file, derive_secrets(settings.token).file_key)
    try:
        found = asyncio.run(file.load())
    except ConfigRejected as error:
        remedy = f"remove {settings.bootstrap_file} if the token was changed; it is written anew"
        return failed(NAME, f"the bootstrap file cannot be opened: {error}", remedy)
    connection = found.storage_connection if found else None
    try:
        check_storage(connection, environ)
        if connection is None or storage_kind(connection) != "postgres":
            return ok(NAME, "none is needed; records are kept by the replica itself")
        asyncio.run(_connect(connection))
    except SettingsError as error:
        return failed(NAME, str(error), "correct the databroker's storage connection at the console")
    except (DatabrokerUnavailable, TimeoutError) as error:
        remedy = "see that PostgreSQL runs and lets this machine in, or correct its connection string at the console"
        return failed(NAME, f"PostgreSQL is not reached: {error or 'no answer in time'}", remedy)
    return ok(NAME, "PostgreSQL answers")


async def _connect(connection: str) -> None:
    from pomerium_agent.databroker.postgres import parse_connection  # asyncpg takes its time, and few need it
    from pomerium_agent.databroker.postgres.link import Link

    async with asyncio.timeout(SECONDS):
        opened = await Link(parse_connection(connection)).connect()
        await opened.close()
