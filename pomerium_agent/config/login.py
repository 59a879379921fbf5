"""What the configuration says of logging in: which flow, which provider, which cookies (authenticate 1, 3.8, 3.9)."""

from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import Enum

from pomerium_agent.idp.naming import with_id
from pomerium_agent.idp.settings import ProviderSettings
from pomerium_agent.settings import Secret

HOSTED_AUTHENTICATE = "authenticate.pomerium.app"
HOSTED_URL = f"https://{HOSTED_AUTHENTICATE}"
HOSTED_HOSTS = (HOSTED_AUTHENTICATE, "authenticate.staging.pomerium.app")
LOCALHOST = "localhost"  # among the programmatic domains: any loopback address too


class Flow(Enum):
    """Who talks to the identity provider: this replica, or a hosted service that hands us the result."""

    STATELESS = "stateless"
    STATEFUL = "stateful"


class SameSite(Enum):
    """As it stands in a cookie; UNSET writes nothing."""

    UNSET = ""
    STRICT = "Strict"
    LAX = "Lax"
    NONE = "None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Everything about logging in that is configured. `provider` is the default one, its id filled in."""

    flow: Flow = Flow.STATELESS
    authenticate_url: str = HOSTED_URL  # without a trailing slash; what browsers open
    internal_url: str = HOSTED_URL  # of the same service, as this replica reaches it
    provider: ProviderSettings = field(default_factory=lambda: with_id(ProviderSettings(authenticate_url=HOSTED_URL)))
    cookie_domain: str = ""  # empty: the host that sets it, and no other
    cookie_http_only: bool = True
    cookie_expire: timedelta = timedelta(hours=14)
    cookie_same_site: SameSite = SameSite.UNSET
    sign_out_url: str = ""  # where a browser ends up that has signed out; empty: a page of ours
    programmatic_domains: tuple[str, ...] = (LOCALHOST,)
    server_keys: tuple[str, ...] = ()  # public keys that the hosted service may have, base64url; empty: any
    portal: bool = True
    assertion_endpoint: bool = False
    any_sign_out_redirect: bool = False
    ends_with_id_token: bool = True  # sessions are refreshed before their ID token expires, too

    @property
    def refreshes(self) -> bool:
        """Whether sessions can be refreshed: the tokens of the hosted flow are not ours to use (authenticate 1)."""
        return self.flow is Flow.STATEFUL and bool(self.provider.type)


def provider_of(login: Login, client_id: str | None, client_secret: Secret | None) -> ProviderSettings:
    """The provider of a route that may override the client: another client is another provider (authenticate 3.9)."""
    if client_id is None and client_secret is None:
        return login.provider
    return with_id(
        replace(
            login.provider,
            client_id=login.provider.client_id if client_id is None else client_id,
            client_secret=login.provider.client_secret if client_secret is None else client_secret,
        )
    )
