"""Service accounts as the console keeps them: all about them but their tokens, which nobody has to keep."""

import sqlite3
from dataclasses import dataclass
from datetime import datetime

from pomerium_agent.console.database import Database
from pomerium_agent.errors import SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAccount:
    """A machine that may call, by a name for people and an id for records. Times are whole seconds."""

    id: str
    name: str
    user_id: str  # whom policies take it for
    description: str
    created_at: datetime
    expires_at: datetime | None  # None: never

    def expired(self, now: datetime) -> bool:
        """Whether replicas refuse it by now (authorize 5)."""
        return self.expires_at is not None and self.expires_at <= now

    def to_json(self, now: datetime) -> dict[str, object]:
        return {
            "id": self.id,
            "name": self.name,
            "user_id": self.user_id,
            "description": self.description,
            "created_at": self.created_at.isoformat(),
            "expires_at": self.expires_at.isoformat() if self.expires_at else None,
            "expired": self.expired(now),
        }


class Accounts:
    """The service accounts of every cluster. Each change makes its cluster's bundle another one, at one stroke."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, cluster_id: str, account: ServiceAccount) -> None:
        """A new account. SettingsError when its name is taken, also by one that has expired."""
        try:
            with self._db.write() as db:
                db.execute(
                    "INSERT INTO service_account VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        cluster_id,
                        account.id,
                        account.name,
                        account.user_id,
                        account.description,
                        account.created_at.isoformat(),
                        account.expires_at.isoformat() if account.expires_at else None,
                    ),
                )
                _changed(db, cluster_id, account.created_at)
        except sqlite3.IntegrityError as error:
            raise SettingsError(
                f"there is already a service account {account.name!r}; choose another name, or revoke that one first"
            ) from error

    def of(self, cluster_id: str) -> tuple[ServiceAccount, ...]:
        """The accounts of a cluster, by name; also those that have expired."""
        rows = self._db.read("SELECT * FROM service_account WHERE cluster_id = ? ORDER BY name", (cluster_id,))
        return tuple(_account(row) for row in rows)

    def find(self, cluster_id: str, name_or_id: str) -> ServiceAccount:
        """The account of this name or id; SettingsError names those there are."""
        rows = self._db.read(
            "SELECT * FROM service_account WHERE cluster_id = ?1 AND (id = ?2 OR name = ?2) ORDER BY id <> ?2",
            (cluster_id, name_or_id),
        )
        if not rows:
            names = ", ".join(account.name for account in self.of(cluster_id))
            raise SettingsError(
                f"there is no service account {name_or_id!r} in this cluster; "
                + (f"there are: {names}" if names else "there is none at all")
            )
        return _account(rows[0])

    def remove(self, cluster_id: str, account_id: str, now: datetime) -> None:
        """Forget an account for good: ids are never given out again, so its tokens stay dead."""
        with self._db.write() as db:
            gone = db.execute("DELETE FROM service_account WHERE cluster_id = ? AND id = ?", (cluster_id, account_id))
            if gone.rowcount:
                _changed(db, cluster_id, now)


def _changed(db: sqlite3.Connection, cluster_id: str, now: datetime) -> None:
    db.execute(
        "UPDATE cluster SET accounts_version = accounts_version + 1, accounts_changed_at = ? WHERE id = ?",
        (now.isoformat(), cluster_id),
    )


def _account(row: sqlite3.Row) -> ServiceAccount:
    return ServiceAccount(
        id=row["id"],
        name=row["name"],
        user_id=row["user_id"],
        description=row["description"],
        created_at=datetime.fromisoformat(row["created_at"]),
        expires_at=datetime.fromisoformat(row["expires_at"]) if row["expires_at"] else None,
    )
