"""What each kind of identity provider brings of its own (authenticate 6.2). A table; behaviour is elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pomerium_agent.errors import ProviderUnavailable, SettingsError
from pomerium_agent.idp.fetch import check_url
from pomerium_agent.idp.settings import NOTHING, ProviderSettings

OIDC_SCOPES = ("openid", "profile", "email", "offline_access")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One row of the table. `issuer`: empty when it must be configured."""

    name: str
    issuer: str = ""
    scopes: tuple[str, ...] = OIDC_SCOPES
    fixed_scopes: bool = False  # configured scopes are ignored
    params: Mapping[str, str] = field(default_factory=lambda: NOTHING)  # dropped when any are configured
    pkce: bool = True
    cross_site_post: bool = False  # the callback is a form that the provider's page posts, without Lax cookies
    fixed_sign_out: bool = False  # it comes back to /.pomerium/signed_out only; keep the wanted target in a cookie
    own_confirm: bool = False  # it asks "really?" itself
    refreshes_without_token: bool = False  # there are no refresh tokens, and none is needed


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind(name="oidc"),
            Kind(
                name="google",
                issuer="https://accounts.google.com",
                scopes=("openid", "profile", "email"),
                params=MappingProxyType({"prompt": "select_account consent", "access_type": "offline"}),
            ),
            Kind(
                name="azure",
                issuer="https://login.microsoftonline.com/common/v2.0",
                params=MappingProxyType({"prompt": "select_account"}),
            ),
            Kind(name="okta"),
            Kind(name="ping"),
            Kind(
                name="onelogin",
                issuer="https://openid-connect.onelogin.com/oidc",
                scopes=("openid", "profile", "email", "groups", "offline_access"),
                fixed_scopes=True,
            ),
            Kind(name="auth0"),
            Kind(name="cognito", scopes=("openid", "email", "profile"), fixed_sign_out=True),
            Kind(name="gitlab", issuer="https://gitlab.com", scopes=("openid", "profile", "email")),
            Kind(
                name="github",
                issuer="https://github.com",
                scopes=("user:email", "read:org"),
                params=MappingProxyType({"access_type": "offline"}),
                pkce=False,
                refreshes_without_token=True,
            ),
            Kind(
                name="apple",
                issuer="https://appleid.apple.com",
                scopes=("name", "email"),
                params=MappingProxyType({"response_mode": "form_post"}),
                pkce=False,
                cross_site_post=True,
            ),
            Kind(name="hosted", issuer="https://authenticate.pomerium.app", own_confirm=True),
        )
    }
)


def kind_of(settings: ProviderSettings) -> Kind:
    """Raises SettingsError for a kind that nobody knows."""
    kind = KINDS.get(settings.type)
    if kind is None:
        raise SettingsError(
            f"idp_provider {settings.type!r} is not known; it must be one of {', '.join(sorted(KINDS))}"
        )
    return kind


def issuer_of(kind: Kind, settings: ProviderSettings) -> str:
    """Where the provider is. Raises SettingsError when that must be said and is not, or is said wrongly."""
    issuer = settings.url or kind.issuer
    if not issuer:
        raise SettingsError(f"idp_provider_url must be set for idp_provider {kind.name}")
    try:
        check_url(issuer)
    except ProviderUnavailable as error:
        raise SettingsError(f"idp_provider_url: {error}") from None
    if kind.name == "auth0" and not issuer.endswith("/"):
        return f"{issuer}/"
    return issuer


def client_id_of(kind: Kind, settings: ProviderSettings) -> str:
    """The hosted service knows its clients by the URL of their authenticate service (authenticate 5.4)."""
    client_id = settings.client_id or (settings.authenticate_url if kind.name == "hosted" else "")
    if not client_id:
        raise SettingsError(f"idp_client_id must be set for idp_provider {kind.name}")
    return client_id


def scopes_of(kind: Kind, settings: ProviderSettings) -> tuple[str, ...]:
    """What is configured replaces the provider's own."""
    if settings.scopes and not kind.fixed_scopes:
        return settings.scopes
    if kind.name == "onelogin" and "/oidc/2" in settings.url:
        return tuple(scope for scope in kind.scopes if scope != "offline_access")
    return kind.scopes


def params_of(kind: Kind, settings: ProviderSettings) -> Mapping[str, str]:
    """Further parameters of the authorization request."""
    return settings.request_params or kind.params
