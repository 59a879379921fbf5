"""What is configured of an identity provider."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pomerium_agent.settings import Secret

PROVIDERS = (
    "oidc",
    "google",
    "azure",
    "okta",
    "ping",
    "onelogin",
    "auth0",
    "cognito",
    "gitlab",
    "github",
    "apple",
    "hosted",
)
NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """One identity provider, as configured: what a provider brings of its own is not filled in (authenticate 3.9)."""

    type: str = ""  # "oidc", "google", …; empty: none of our own, the hosted service logs people in
    url: str = ""  # issuer; empty: the provider's own default
    client_id: str = ""
    client_secret: Secret = field(default=Secret(""), repr=False)
    scopes: tuple[str, ...] = ()  # empty: the provider's own
    request_params: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    authenticate_url: str = ""  # https://host of the authenticate service, without a trailing slash
    access_token_audiences: tuple[str, ...] | None = None  # None: any
    id: str = ""  # names it on the wire and in session handles
