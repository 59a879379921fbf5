"""A new token in the place of another, and the time in which both are good."""

import hmac
import sqlite3
from dataclasses import dataclass
from datetime import datetime, timedelta

from pomerium_agent.console.database import Database
from pomerium_agent.console.tokens import fingerprint, token_hash
from pomerium_agent.errors import SettingsError

MAX_OVERLAP = timedelta(days=30)
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class OldToken:
    """The token before the present one, as long as it is remembered."""

    generation: int
    fingerprint: str
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What a token opens: a cluster, and as which generation of its token it counts."""

    cluster_id: str
    generation: int


class Rotations:
    """The hashes of tokens. What is read here is a value."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def open(self, token: str, now: datetime) -> Opened | None:
        """What this token opens now, be it the present one of a cluster or one that is still good."""
        wanted = token_hash(token)
        for row in self._db.read(
            "SELECT id, generation, token_hash, NULL AS until FROM cluster WHERE token_hash = ?1 UNION ALL "
            "SELECT cluster_id, generation, token_hash, until FROM old_token WHERE token_hash = ?1",
            (wanted,),
        ):
            good = row["until"] is None or now < datetime.fromisoformat(row["until"])
            if good and hmac.compare_digest(row["token_hash"], wanted):
                return Opened(cluster_id=row["id"], generation=row["generation"])
        return None

    def rotate(self, cluster_id: str, token: str, until: datetime | None) -> None:
        """Put `token` in the old one's place; the old one is good until then, or from now on for nothing."""
        with self._db.write() as db:
            db.execute("DELETE FROM old_token WHERE cluster_id = ?", (cluster_id,))
            if until is not None:
                db.execute(
                    "INSERT INTO old_token SELECT id, token_hash, generation, ? FROM cluster WHERE id = ?",
                    (until.isoformat(), cluster_id),
                )
            db.execute(
                "UPDATE cluster SET token_hash = ?, generation = generation + 1 WHERE id = ?",
                (token_hash(token), cluster_id),
            )

    def end_overlap(self, cluster_id: str) -> None:
        """The old token is good for nothing from now on."""
        with self._db.write() as db:
            db.execute("DELETE FROM old_token WHERE cluster_id = ?", (cluster_id,))


def read_old_token(row: sqlite3.Row) -> OldToken | None:
    """The old token in a row of the cluster table that was joined with it."""
    if row["old_hash"] is None:
        return None
    return OldToken(
        generation=row["old_generation"],
        fingerprint=fingerprint(row["old_hash"]),
        until=datetime.fromisoformat(row["old_until"]),
    )


def read_overlap(text: str) -> timedelta:
    """How long an old token stays good: `0`, `90s`, `30m`, `24h` or `7d`. SettingsError for anything else."""
    number, unit = (text, "s") if text == "0" else (text[:-1], text[-1:])
    if not (number.isascii() and number.isdigit() and len(number) <= 9 and unit in _UNITS):
        raise SettingsError(f"--overlap: {text!r} is not a duration such as 30m, 24h, 7d, or 0 for none")
    overlap = timedelta(seconds=int(number) * _UNITS[unit])
    if overlap > MAX_OVERLAP:
        raise SettingsError(f"--overlap: an old token stays good for {MAX_OVERLAP.days} days at most")
    return overlap
