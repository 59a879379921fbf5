"""Who can log in at the development provider, and which clients may send them there."""

import hashlib
from dataclasses import dataclass, field
from typing import Any

from pomerium_agent.settings import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class DevUser:
    """Somebody who can log in; their subject follows from the address."""

    email: str
    password: Secret = field(repr=False)
    name: str = ""
    groups: tuple[str, ...] = ()

    def claims(self) -> dict[str, Any]:
        subject = hashlib.sha256(self.email.encode()).hexdigest()[:16]
        about = {"name": self.name or self.email, "email": self.email, "email_verified": True}
        return {"sub": f"dev-{subject}", **about, "groups": list(self.groups)}


@dataclass(frozen=True, slots=True, kw_only=True)
class DevClient:
    """A client that may send people here. An empty secret: it proves itself by PKCE alone."""

    id: str
    secret: Secret = field(default=Secret(""), repr=False)
    redirect_uris: tuple[str, ...]
    post_logout_redirect_uris: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DevProvider:
    """A provider that runs."""

    issuer: str
    users: tuple[DevUser, ...]
    clients: tuple[DevClient, ...]
