"""Making service accounts: a name, whom it stands for, an end, and a token that is shown once and stored nowhere."""

import re
import shlex
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from pomerium_agent.console.accounts import ServiceAccount
from pomerium_agent.console.store import Cluster, Store
from pomerium_agent.errors import SettingsError
from pomerium_agent.sessions.handle import Handle, sign_handle
from pomerium_agent.settings import Secret

MAX_NAME = 64
MAX_TEXT = 256  # of a user id or a description
LONGEST_LIFE = timedelta(days=36_500)
NEVER = "never"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LIFE = re.compile(r"([1-9][0-9]{0,9})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class NewAccount:
    """A service account and its token, which is shown now and never again."""

    account: ServiceAccount
    token: Secret


def create_service_account(
    store: Store,
    cluster: Cluster,
    name: str,
    *,
    now: datetime,
    user_id: str = "",
    description: str = "",
    expires: str = NEVER,
) -> NewAccount:
    """A service account that every replica of the cluster knows with its next bundle (databroker 13)."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise SettingsError(
            f"NAME: a service account's name is 1 to {MAX_NAME} letters, digits, dots, hyphens and underscores, "
            "and begins with a letter or digit"
        )
    life = parse_life(expires)
    created_at = now.astimezone(UTC).replace(microsecond=0)  # the token counts in seconds, too
    account = ServiceAccount(
        id=str(uuid.uuid4()),
        name=name,
        user_id=_checked_text("--user-id", user_id) or name,
        description=_checked_text("--description", description),
        created_at=created_at,
        expires_at=created_at + life if life else None,
    )
    token = sign_token(store, cluster, account)
    store.accounts.add(cluster.id, account)
    return NewAccount(account, token)


def sign_token(store: Store, cluster: Cluster, account: ServiceAccount) -> Secret:
    """The account's session handle (authorize 4.1). It only names the account: what ends it is the record's end."""
    handle = Handle(
        id=account.id,
        user_id=account.user_id,
        issuer=cluster.domain,
        issued_at=int(account.created_at.timestamp()),
    )
    return Secret(sign_handle(handle, store.secrets(cluster.id).shared_secret))


def revoke_service_account(store: Store, cluster: Cluster, name_or_id: str, *, now: datetime) -> ServiceAccount:
    """Take an account away. SettingsError names those there are when there is none of this name."""
    account = store.accounts.find(cluster.id, name_or_id)
    store.accounts.remove(cluster.id, account.id, now.astimezone(UTC))
    return account


def parse_life(text: str) -> timedelta | None:
    """How long an account lives: `90d`, `12h`, `8w`; None for `never`."""
    if text == NEVER:
        return None
    found = _LIFE.fullmatch(text)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 0 < seconds <= LONGEST_LIFE.total_seconds():
        raise SettingsError(
            f"--expires: {text!r} is not a time to live of at most 100 years; "
            f"write a number and its unit (s, m, h, d, w), such as 90d, or {NEVER}"
        )
    return timedelta(seconds=seconds)


def headers(token: str) -> dict[str, str]:
    """The headers that carry a token, either of which will do; the second leaves `Authorization` to the upstream."""
    return {"Authorization": f"Bearer Pomerium-{token}", "X-Pomerium-Authorization": token}


def curls(url: str, token: str, *, domain: str, ca_file: Path) -> tuple[str, ...]:
    """A line for a shell with each header. The console's authority is named where it is the one that signed."""
    trust = ["--cacert", str(ca_file)] if (urlsplit(url).hostname or "").endswith(f".{domain}") else []
    return tuple(shlex.join(["curl", *trust, "-H", f"{name}: {value}", url]) for name, value in headers(token).items())


def guarded_url(store: Store, cluster: Cluster) -> str:
    """Where the token opens something: the first route that is not public, else a name of the starter domain."""
    for route in store.config(cluster.id).config.routes:
        source: str = getattr(route, "from")
        if source.startswith("https://") and "*" not in source and not route.allow_public_unauthenticated_access:
            return source.rstrip("/") + (route.path or route.prefix or "/")
    return f"https://app.{cluster.domain}/"


def _checked_text(setting: str, text: str) -> str:
    if len(text) > MAX_TEXT or not text.isprintable():
        raise SettingsError(f"{setting}: give at most {MAX_TEXT} printable characters")
    return text.strip()
