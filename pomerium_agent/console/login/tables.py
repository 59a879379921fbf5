"""What the console keeps of logging people in, beside the sessions: settings, keys, who agreed to what.

All methods block for a moment, like those of the store.
"""

import hashlib
import secrets
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc.jwk import ECKey

from pomerium_agent.console.database import Database
from pomerium_agent.console.login.keys import LoginKey, LoginKeys
from pomerium_agent.console.login.offer import Offer
from pomerium_agent.console.login.settings import LoginSettings

_SETTINGS, _SIGNING_KEY = "settings", "signing key"


class Logins:
    """The tables of the login that change seldom."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._seal = database.seal

    # --- settings -------------------------------------------------------------------------------

    def settings(self) -> LoginSettings | None:
        """None: the console logs nobody in."""
        plain = self._secret(_SETTINGS)
        return LoginSettings.from_bytes(plain) if plain is not None else None

    def set_settings(self, settings: LoginSettings) -> None:
        self._set_secret(_SETTINGS, settings.to_bytes())

    def unset(self) -> None:
        """Log nobody in from now on, and sign everybody out; the keys stay."""
        with self._db.write() as db:
            db.execute("DELETE FROM login_secret WHERE name = ?", (_SETTINGS,))
            db.execute("DELETE FROM login_session")

    def offer(self) -> Offer | None:
        """What clusters are told of it."""
        settings = self.settings()
        if settings is None:
            return None
        return Offer(public_url=settings.public_url, internal_url=settings.internal_url, keys=self.keys().names)

    # --- keys -----------------------------------------------------------------------------------

    def keys(self) -> LoginKeys:
        """Every HPKE key that is in use, the oldest first."""
        rows = self._db.read("SELECT * FROM login_key ORDER BY current_from")
        return LoginKeys(
            tuple(
                LoginKey(
                    private=X25519PrivateKey.from_private_bytes(
                        self._seal.open(row["private"], _key_of(row["public"]))
                    ),
                    current_from=datetime.fromisoformat(row["current_from"]),
                )
                for row in rows
            )
        )

    def add_key(self, current_from: datetime, *, alone: bool = False) -> LoginKey:
        """A new key; `alone`: no other is of any use from now on."""
        key = LoginKey(private=X25519PrivateKey.generate(), current_from=current_from)
        sealed = self._seal.seal(key.private.private_bytes_raw(), _key_of(key.public))
        with self._db.write() as db:
            if alone:
                db.execute("DELETE FROM login_key")
            db.execute("INSERT INTO login_key VALUES (?, ?, ?)", (key.public, sealed, current_from.isoformat()))
        return key

    def remove_keys(self, keys: tuple[LoginKey, ...]) -> None:
        with self._db.write() as db:
            db.executemany("DELETE FROM login_key WHERE public = ?", [(key.public,) for key in keys])

    def signing_key(self) -> ECKey:
        """What our own ID tokens are signed with (ES256); made on first use."""
        plain = self._secret(_SIGNING_KEY)
        if plain is None:
            made = ec.generate_private_key(ec.SECP256R1())
            pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            self._set_secret(_SIGNING_KEY, pem, replace=False)
            plain = self._secret(_SIGNING_KEY) or pem
        key = ECKey.import_key(plain)
        return ECKey.import_key(plain, {"kid": key.thumbprint(), "use": "sig", "alg": "ES256"})

    # --- clusters and people --------------------------------------------------------------------

    def clusters_with_tokens(self) -> frozenset[str]:
        """The ids of the clusters that asked for the tokens of their people."""
        return frozenset(row["cluster_id"] for row in self._db.read("SELECT cluster_id FROM login_tokens"))

    def set_tokens(self, cluster_id: str, *, passed: bool) -> None:
        with self._db.write() as db:
            if passed and db.execute("INSERT OR IGNORE INTO login_tokens VALUES (?)", (cluster_id,)).rowcount:
                db.execute("DELETE FROM login_consent WHERE cluster_id = ?", (cluster_id,))  # they agreed to less
            elif not passed:
                db.execute("DELETE FROM login_tokens WHERE cluster_id = ?", (cluster_id,))

    def agreed(self, cluster_id: str, person: bytes) -> bool:
        """Whether a person has agreed that a cluster may know them."""
        sql = "SELECT 1 FROM login_consent WHERE cluster_id = ? AND person = ?"
        return bool(self._db.read(sql, (cluster_id, person)))

    def agree(self, cluster_id: str, person: bytes, now: datetime) -> None:
        with self._db.write() as db:
            row = (cluster_id, person, now.isoformat())
            db.execute("INSERT OR IGNORE INTO login_consent VALUES (?, ?, ?)", row)

    def use_once(self, id: str, *, until: datetime, now: datetime) -> bool:
        """Whether nobody has used this id before; it is remembered until then."""
        with self._db.write() as db:
            db.execute("DELETE FROM login_used WHERE until <= ?", (now.isoformat(),))
            row = (hash_of(id), until.isoformat())
            return db.execute("INSERT OR IGNORE INTO login_used VALUES (?, ?)", row).rowcount == 1

    # --- below ----------------------------------------------------------------------------------

    def _secret(self, name: str) -> bytes | None:
        rows = self._db.read("SELECT value FROM login_secret WHERE name = ?", (name,))
        return self._seal.open(rows[0]["value"], _secret_of(name)) if rows else None

    def _set_secret(self, name: str, value: bytes, *, replace: bool = True) -> None:
        sealed = self._seal.seal(value, _secret_of(name))
        with self._db.write() as db:
            if replace:
                db.execute("DELETE FROM login_secret WHERE name = ?", (name,))
            db.execute("INSERT OR IGNORE INTO login_secret VALUES (?, ?)", (name, sealed))


def new_secret() -> str:
    """Something that nobody guesses, fit for URLs and cookies: 43 characters."""
    return secrets.token_urlsafe(32)


def hash_of(secret: str) -> bytes:
    """What is stored of a random secret; nobody finds the secret from it."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


def _secret_of(name: str) -> str:
    return f"the {name} of the login"


def _key_of(public: bytes) -> str:
    return f"the login key {public.hex()}"
