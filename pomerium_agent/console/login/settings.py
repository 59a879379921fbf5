"""What an operator says of logging people in at the console: where that is, and who knows the people."""

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from pomerium_agent.errors import SettingsError
from pomerium_agent.idp.fetch import LOOPBACK
from pomerium_agent.idp.kinds import client_id_of, issuer_of, kind_of
from pomerium_agent.idp.naming import with_id
from pomerium_agent.idp.settings import ProviderSettings
from pomerium_agent.settings import Secret

CALLBACK = "/oauth2/callback"
MAX_PROXIES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginSettings:
    """Complete and checked. URLs are an origin each: no path, no slash at the end."""

    public_url: str  # as browsers reach the console
    provider: ProviderSettings
    internal_url: str = ""  # as replicas reach it, where that differs
    proxies: int = 0  # in front of the console, whose word for a visitor's address is taken

    @property
    def redirect_uri(self) -> str:
        """What has to be registered at the provider."""
        return f"{self.public_url}{CALLBACK}"

    def to_bytes(self) -> bytes:
        provider = self.provider
        return json.dumps(
            {
                "public_url": self.public_url,
                "internal_url": self.internal_url,
                "proxies": self.proxies,
                "provider": provider.type,
                "url": provider.url,
                "client_id": provider.client_id,
                "client_secret": str(provider.client_secret),
                "scopes": list(provider.scopes),
            }
        ).encode()

    @staticmethod
    def from_bytes(plain: bytes) -> "LoginSettings":
        found = json.loads(plain)
        return checked_settings(
            provider=found["provider"],
            url=found["url"],
            client_id=found["client_id"],
            client_secret=Secret(found["client_secret"]),
            scopes=tuple(found["scopes"]),
            public_url=found["public_url"],
            internal_url=found["internal_url"],
            proxies=found["proxies"],
        )

    def to_json(self) -> dict[str, object]:
        """What may be shown: everything but the secret."""
        return {
            "public_url": self.public_url,
            "internal_url": self.internal_url or self.public_url,
            "redirect_uri": self.redirect_uri,
            "provider": self.provider.type,
            "url": issuer_of(kind_of(self.provider), self.provider),
            "client_id": self.provider.client_id,
            "has_client_secret": bool(self.provider.client_secret),
            "scopes": list(self.provider.scopes),
            "proxies": self.proxies,
        }


def checked_settings(
    *,
    provider: str,
    url: str,
    client_id: str,
    client_secret: Secret,
    public_url: str,
    internal_url: str = "",
    scopes: tuple[str, ...] = (),
    proxies: int = 0,
) -> LoginSettings:
    """Raises SettingsError, which names the option and the remedy."""
    public_url = _origin("--public-url", public_url)
    settings = ProviderSettings(
        type=provider,
        url=url,
        client_id=client_id,
        client_secret=client_secret,
        scopes=scopes,
        authenticate_url=public_url,
    )
    if provider == "hosted":
        raise SettingsError("--provider: hosted is what the console becomes; name the provider that knows the people")
    kind = kind_of(settings)
    client_id_of(kind, settings)
    issuer_of(kind, settings)
    if not 0 <= proxies <= MAX_PROXIES:
        raise SettingsError(f"--proxies: give the number of proxies in front of the console, 0 to {MAX_PROXIES}")
    return LoginSettings(
        public_url=public_url,
        internal_url=_origin("--internal-url", internal_url) if internal_url else "",
        provider=with_id(settings),
        proxies=proxies,
    )


def _origin(option: str, url: str) -> str:
    """Scheme and host, with the port unless it is the usual one."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise SettingsError(f"{option}: {url!r} is not a URL") from None
    near = host in LOOPBACK or host.endswith(".localhost")
    if not host or parts.scheme not in ("https", "http") or (parts.scheme == "http" and not near):
        raise SettingsError(f"{option}: give https://host; http is for names below localhost only")
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise SettingsError(f"{option}: give scheme and host only, for example https://login.example.com")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + (f":{port}" if port not in (None, _usual(parts.scheme)) else "")


def _usual(scheme: str) -> int:
    return 443 if scheme == "https" else 80
