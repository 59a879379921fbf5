"""Browsers that are signed in at the console, and what each of them is to each cluster. All methods block.

One login at the provider serves every cluster, but no cluster shares its visit with another (N-46). A cookie is
stored as its hash, claims and tokens are sealed.
"""

import json
import sqlite3
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pomerium_agent.console.database import Database
from pomerium_agent.console.login.tables import hash_of, new_secret
from pomerium_agent.idp import Identity, Token
from pomerium_agent.settings import Secret

SESSION_LIFE = timedelta(hours=14)  # as long as replicas keep theirs by default (authenticate 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A browser that is signed in."""

    id: bytes
    provider_id: str  # of the settings by which it signed in
    identity: Identity = field(repr=False)
    created_at: datetime
    checked_at: datetime
    expires_at: datetime

    @property
    def email(self) -> str:
        return text_claim(self.identity, "email")


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """What a session is to one cluster, by one id of its provider."""

    id: str
    session: bytes
    cluster_id: str
    created_at: datetime


class Sessions:
    """The tables of sessions and visits."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._seal = database.seal

    def open(self, identity: Identity, *, provider_id: str, now: datetime, instead_of: str = "") -> str:
        """A new session; its cookie, which is known to nobody but the browser. The one before it ends."""
        cookie = new_secret()
        id = hash_of(cookie)
        sealed = self._sealed(id, identity, provider_id)
        with self._db.write() as db:
            db.execute("DELETE FROM login_session WHERE id = ?", (hash_of(instead_of),))
            row = (id, sealed, now.isoformat(), now.isoformat(), (now + SESSION_LIFE).isoformat())
            db.execute("INSERT INTO login_session VALUES (?, ?, ?, ?, ?)", row)
        return cookie

    def find(self, cookie: str, now: datetime) -> Session | None:
        """The session of a cookie, unless it is over."""
        return self.get(hash_of(cookie), now)

    def get(self, id: bytes, now: datetime) -> Session | None:
        rows = self._db.read("SELECT * FROM login_session WHERE id = ?", (id,))
        session = self._session(rows[0]) if rows else None
        return session if session is not None and session.expires_at > now else None

    def renew(self, session: Session, identity: Identity, now: datetime) -> None:
        """The provider has vouched for it again, and said this."""
        sealed = self._sealed(session.id, identity, session.provider_id)
        with self._db.write() as db:
            db.execute(
                "UPDATE login_session SET identity = ?, checked_at = ? WHERE id = ?",
                (sealed, now.isoformat(), session.id),
            )

    def close(self, id: bytes) -> None:
        """Sign a browser out; its visits and the tokens of clusters end with it."""
        with self._db.write() as db:
            db.execute("DELETE FROM login_session WHERE id = ?", (id,))

    def close_expired(self, now: datetime) -> None:
        with self._db.write() as db:
            db.execute("DELETE FROM login_session WHERE expires_at <= ?", (now.isoformat(),))

    def visit(self, session: Session, cluster_id: str, idp_id: str, now: datetime) -> Visit | None:
        """What the session is to this cluster, begun now if need be; None when the session ended just now."""
        key = (session.id, cluster_id, idp_id)
        try:
            with self._db.write() as db:
                db.execute(
                    "INSERT OR IGNORE INTO login_visit VALUES (?, ?, ?, ?, ?)",
                    (uuid.uuid4().hex, *key, now.isoformat()),
                )
        except sqlite3.IntegrityError:
            return None
        sql = "SELECT * FROM login_visit WHERE session = ? AND cluster_id = ? AND idp_id = ?"
        rows = self._db.read(sql, key)
        return _visit(rows[0]) if rows else None

    def visit_by_id(self, id: str) -> Visit | None:
        rows = self._db.read("SELECT * FROM login_visit WHERE id = ?", (id,))
        return _visit(rows[0]) if rows else None

    def _sealed(self, id: bytes, identity: Identity, provider_id: str) -> bytes:
        token = identity.token
        plain = json.dumps(
            {
                "provider_id": provider_id,
                "claims": dict(identity.claims),
                "id_token": str(identity.id_token),
                "id_token_claims": dict(identity.id_token_claims),
                "access_token": str(token.access_token),
                "token_type": token.token_type,
                "token_until": token.expires_at.isoformat() if token.expires_at else None,
                "refresh_token": str(token.refresh_token),
            }
        )
        return self._seal.seal(plain.encode(), _identity_of(id))

    def _session(self, row: sqlite3.Row) -> Session:
        found = json.loads(self._seal.open(row["identity"], _identity_of(row["id"])))
        until = found["token_until"]
        return Session(
            id=row["id"],
            provider_id=found["provider_id"],
            identity=Identity(
                claims=found["claims"],
                id_token=Secret(found["id_token"]),
                id_token_claims=found["id_token_claims"],
                token=Token(
                    access_token=Secret(found["access_token"]),
                    token_type=found["token_type"],
                    expires_at=datetime.fromisoformat(until) if until else None,
                    refresh_token=Secret(found["refresh_token"]),
                ),
            ),
            created_at=datetime.fromisoformat(row["created_at"]),
            checked_at=datetime.fromisoformat(row["checked_at"]),
            expires_at=datetime.fromisoformat(row["expires_at"]),
        )


def text_claim(identity: Identity, name: str) -> str:
    """A claim that is a text; empty when there is none."""
    value = identity.claims.get(name)
    return value if isinstance(value, str) else ""


def _visit(row: sqlite3.Row) -> Visit:
    return Visit(
        id=row["id"],
        session=row["session"],
        cluster_id=row["cluster_id"],
        created_at=datetime.fromisoformat(row["created_at"]),
    )


def _identity_of(id: bytes) -> str:
    return f"the identity of login session {id.hex()}"
