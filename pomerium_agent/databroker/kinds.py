"""What kinds of storage there are, and which connection asks for which (zero link 8.3). Pure."""

from collections.abc import Mapping
from typing import Literal

from pomerium_agent.databroker.sqlite.place import directory_of

StorageKind = Literal["memory", "file", "postgres"]


def storage_kind(connection: str | None) -> StorageKind:
    """What the bootstrap's storage connection asks for (Z-23)."""
    if connection is None:
        return "memory"
    return "file" if connection.startswith("file://") else "postgres"


def check_storage(connection: str | None, environ: Mapping[str, str]) -> None:
    """Raise SettingsError for what cannot work anywhere; the connection is not shown, as it may hold a password."""
    match storage_kind(connection):
        case "file":
            directory_of(connection or "", environ)
        case "postgres":
            from pomerium_agent.databroker.postgres import parse_connection  # asyncpg takes its time, and few need it

            parse_connection(connection or "")
