"""The tokens that clusters hold of us as their OpenID Connect provider; hashes only. All methods block.

A refresh token is used once, and the answer brings the next. Whoever comes with one that was used before has stolen
it, or was stolen from: the grant ends for both. Only a replica that never heard our answer may ask again with the
token before, for a minute, and as long as nobody has used the new one.
"""

import sqlite3
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from pomerium_agent.console.database import Database
from pomerium_agent.console.login.tables import hash_of, new_secret
from pomerium_agent.settings import Secret

ACCESS_LIFE = timedelta(hours=1)
ASK_AGAIN = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What was granted to a cluster for one visit."""

    id: str
    visit: str
    client_id: str
    scope: str
    nonce: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """Tokens, told once. An empty refresh token: none was asked for."""

    grant: Grant
    access_token: Secret = field(repr=False)
    refresh_token: Secret = field(repr=False)


class Reuse(Enum):
    """Why a refresh token brings nothing."""

    UNKNOWN = "it is not known, or over"
    STOLEN = "it was used before"


class Grants:
    """The table of grants."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def issue(self, grant: Grant, now: datetime, *, refreshable: bool) -> Issued | None:
        """The first tokens of a grant; None when its visit is over already."""
        access, refresh = new_secret(), _refresh_token(grant.id) if refreshable else ""
        row = (
            grant.id,
            grant.visit,
            grant.client_id,
            grant.scope,
            grant.nonce,
            hash_of(access),
            (now + ACCESS_LIFE).isoformat(),
            hash_of(refresh) if refresh else None,
            None,
            now.isoformat(),
        )
        try:
            with self._db.write() as db:
                db.execute("INSERT INTO login_grant VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        except sqlite3.IntegrityError:  # signed out in between
            return None
        return Issued(grant=grant, access_token=Secret(access), refresh_token=Secret(refresh))

    def look_up(self, refresh_token: str) -> Grant | None:
        """What a refresh token stands for that may still be good; nothing is used up."""
        row = self._row(refresh_token)
        return _grant(row) if row is not None and hash_of(refresh_token) in (row["refresh"], row["previous"]) else None

    def rotate(self, refresh_token: str, now: datetime) -> Issued | Reuse:
        """The next tokens for this one. Used a second time, it ends the grant."""
        hash, access = hash_of(refresh_token), new_secret()
        with self._db.write() as db:
            id = refresh_token.partition(".")[0]
            row = db.execute("SELECT * FROM login_grant WHERE id = ? AND refresh IS NOT NULL", (id,)).fetchone()
            if row is None:
                return Reuse.UNKNOWN
            unheard = row["previous"] == hash and now - datetime.fromisoformat(row["rotated_at"]) < ASK_AGAIN
            if row["refresh"] != hash and not unheard:
                db.execute("DELETE FROM login_grant WHERE id = ?", (id,))
                return Reuse.STOLEN
            refresh = _refresh_token(id)
            db.execute(
                "UPDATE login_grant SET access = ?, access_until = ?, refresh = ?, previous = ?, rotated_at = ? "
                "WHERE id = ?",
                (hash_of(access), (now + ACCESS_LIFE).isoformat(), hash_of(refresh), hash, now.isoformat(), id),
            )
        return Issued(grant=_grant(row), access_token=Secret(access), refresh_token=Secret(refresh))

    def by_access(self, access_token: str, now: datetime) -> Grant | None:
        """The grant whose access token this is, unless that has expired."""
        rows = self._db.read("SELECT * FROM login_grant WHERE access = ?", (hash_of(access_token),))
        if not rows or datetime.fromisoformat(rows[0]["access_until"]) <= now:
            return None
        return _grant(rows[0])

    def end(self, id: str) -> None:
        with self._db.write() as db:
            db.execute("DELETE FROM login_grant WHERE id = ?", (id,))

    def end_by_token(self, token: str, client_id: str) -> None:
        """Take back what one of its tokens stands for, if it is this client's (RFC 7009)."""
        with self._db.write() as db:
            db.execute(
                "DELETE FROM login_grant WHERE client_id = ?2 AND (access = ?1 OR refresh = ?1)",
                (hash_of(token), client_id),
            )

    def _row(self, refresh_token: str) -> sqlite3.Row | None:
        id = refresh_token.partition(".")[0]
        rows = self._db.read("SELECT * FROM login_grant WHERE id = ? AND refresh IS NOT NULL", (id,))
        return rows[0] if rows else None


def new_grant_id() -> str:
    return uuid.uuid4().hex


def _refresh_token(grant_id: str) -> str:
    """It names its grant, so that one that was replaced long ago is still known for what it is."""
    return f"{grant_id}.{new_secret()}"


def _grant(row: sqlite3.Row) -> Grant:
    return Grant(id=row["id"], visit=row["visit"], client_id=row["client_id"], scope=row["scope"], nonce=row["nonce"])
