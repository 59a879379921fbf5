"""A copy of the console's database, taken while it is in use."""

import os
import sqlite3
from pathlib import Path

from pomerium_agent.console.database import Database
from pomerium_agent.errors import SettingsError


def back_up(database: Database, target: Path) -> int:
    """Write a copy that is whole at one moment to `target`, mode 0600, in one step; return its size in bytes.

    A copy that is there from before is replaced once the new one is complete. The key is not part of it: who finds the
    copy finds sealed secrets. Raises SettingsError.
    """
    if target.is_dir():
        raise SettingsError(f"{target} is a directory; name a file, for example {target / 'console-backup.db'}")
    if target.resolve().parent == database.data_dir.resolve():
        raise SettingsError(f"{target} is beside the database itself; a backup belongs on another disk")
    part = target.with_name(f".{target.name}.part")
    try:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            copy = sqlite3.connect(part)
            try:
                database.copy_into(copy)
            finally:
                copy.close()
            with part.open("rb") as written:
                os.fsync(written.fileno())
                size = os.fstat(written.fileno()).st_size
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, sqlite3.Error) as error:
        raise SettingsError(f"the backup {target} cannot be written: {error}") from error
    return size
