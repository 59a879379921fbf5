"""The identity providers in use: opened by their settings, and kept over changes of the configuration."""

from collections import OrderedDict
from collections.abc import Hashable

import aiohttp

from pomerium_agent.idp.discovery import DiscoveryCache
from pomerium_agent.idp.github import GitHub
from pomerium_agent.idp.hosted import Hosted
from pomerium_agent.idp.jwks import JwksCache
from pomerium_agent.idp.kinds import kind_of
from pomerium_agent.idp.oidc import OidcProvider
from pomerium_agent.idp.provider import Provider
from pomerium_agent.idp.settings import ProviderSettings
from pomerium_agent.idp.variants import Apple, Auth0, Azure, Cognito, Google
from pomerium_agent.runtime.clock import Clock

MAX_PROVIDERS = 256
VARIANTS: dict[str, type[OidcProvider]] = {
    "apple": Apple,
    "auth0": Auth0,
    "azure": Azure,
    "cognito": Cognito,
    "google": Google,
}


def open_provider(
    settings: ProviderSettings,
    http: aiohttp.ClientSession,
    clock: Clock,
    *,
    client_key: bytes = b"",
    discovery: DiscoveryCache | None = None,
    jwks: JwksCache | None = None,
) -> Provider:
    """A provider, ready to be asked; nothing is fetched yet. Raises SettingsError, which names the setting.

    `client_key`: the seed of the hosted service's client key; other kinds need none. `discovery` and `jwks`: what is
    known already.
    """
    discovery = discovery or DiscoveryCache(http, clock)
    jwks = jwks or JwksCache(http, clock, discovery)
    kind = kind_of(settings)
    if kind.name == "github":
        return GitHub(settings, kind, http, clock)
    if kind.name == "hosted":
        return Hosted(settings, kind, http, clock, discovery=discovery, jwks=jwks, client_key=client_key)
    variant = VARIANTS.get(kind.name, OidcProvider)
    return variant(settings, kind, http, clock, discovery=discovery, jwks=jwks)


class Providers:
    """One provider for equal settings. Discovery documents and keys outlive both them and the configuration."""

    def __init__(
        self, http: aiohttp.ClientSession, clock: Clock, *, client_key: bytes = b"", size: int = MAX_PROVIDERS
    ) -> None:
        self._http = http
        self._clock = clock
        self._client_key = client_key
        self._size = size
        self._discovery = DiscoveryCache(http, clock)
        self._jwks = JwksCache(http, clock, self._discovery)
        self._open: OrderedDict[Hashable, Provider] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def get(self, settings: ProviderSettings) -> Provider:
        """Raises SettingsError. Beyond a bound, the provider that nobody asked for the longest makes room."""
        key = _key(settings)
        provider = self._open.get(key)
        if provider is None:
            provider = self._open[key] = open_provider(
                settings,
                self._http,
                self._clock,
                client_key=self._client_key,
                discovery=self._discovery,
                jwks=self._jwks,
            )
            if len(self._open) > self._size:
                self._open.popitem(last=False)
        self._open.move_to_end(key)
        return provider


def _key(settings: ProviderSettings) -> Hashable:
    """Equal for equal settings; the settings themselves hold a mapping, which has no hash."""
    return (
        settings.type,
        settings.url,
        settings.client_id,
        settings.client_secret,
        settings.scopes,
        tuple(sorted(settings.request_params.items())),
        settings.authenticate_url,
        settings.access_token_audiences,
        settings.id,
    )
