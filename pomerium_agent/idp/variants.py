"""Providers that speak OpenID Connect with an accent (authenticate 6.2)."""

import re
from dataclasses import replace
from urllib.parse import urlsplit, urlunsplit

from pomerium_agent.errors import NotBelieved, Unsupported
from pomerium_agent.idp import claims as checks
from pomerium_agent.idp.discovery import Metadata
from pomerium_agent.idp.identity import NO_SECRET, Claims, Token
from pomerium_agent.idp.oidc import OidcProvider, with_query
from pomerium_agent.idp.signed import ALGORITHMS
from pomerium_agent.idp.token_endpoint import Client, Style

TENANT = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ANY_TENANT = "{tenantid}"  # in the issuer of a discovery document that stands for every tenant
# What the first segment of a URL stands for; the last is the tenant of Microsoft's personal accounts.
STANDS_FOR = {"common": ANY_TENANT, "organizations": ANY_TENANT, "consumers": "9188040d-6c67-4c5b-b112-36a304b66dad"}


class Google(OidcProvider):
    """May leave the scheme out of `iss`."""

    def _check_issuer(self, claims: Claims, metadata: Metadata) -> None:
        if claims.get("iss") != urlsplit(metadata.issuer).netloc:
            super()._check_issuer(claims, metadata)


class Azure(OidcProvider):
    """One URL may stand for every tenant; each token still names its own, and both names must agree (G-6, N-32)."""

    def _names_us(self, issuer: str) -> bool:
        tenant = STANDS_FOR.get(_tenant_in(self.issuer))
        return issuer == self.issuer or (tenant is not None and issuer == _with_tenant(self.issuer, tenant))

    def _check_issuer(self, claims: Claims, metadata: Metadata) -> None:
        if ANY_TENANT not in metadata.issuer:
            super()._check_issuer(claims, metadata)
            return
        if claims.get("iss") != metadata.issuer.replace(ANY_TENANT, self._tenant(claims)):
            raise NotBelieved(f"{self.name}: the issuer of the token is not its tenant (iss, tid)")

    async def check_callback_issuer(self, issuer: str) -> None:
        """Under a URL for all, any tenant may have sent the callback."""
        if ANY_TENANT not in (await self._metadata()).issuer or not TENANT.fullmatch(_tenant_in(issuer)):
            await super().check_callback_issuer(issuer)
        elif issuer != _with_tenant(self.issuer, _tenant_in(issuer)):
            raise NotBelieved(f"{self.name} did not send this callback (iss); start the login again")

    async def verify_access_token(self, raw: str) -> Claims:
        """As a JWT. Anybody's tenant could have issued it under a URL for all, so there the audience must be given."""
        metadata = await self._metadata()
        if ANY_TENANT in metadata.issuer and self.settings.access_token_audiences is None:
            raise Unsupported(
                f"{self.name} takes every tenant: idp_access_token_allowed_audiences must say for whom a token is"
            )
        _, claims = await self._verified(raw, tuple(ALGORITHMS))
        tenant = self._tenant(claims) if ANY_TENANT in metadata.issuer else _tenant_in(metadata.issuer)
        if claims.get("iss") not in (f"https://sts.windows.net/{tenant}/", _with_tenant(self.issuer, tenant)):
            raise NotBelieved(f"{self.name}: the access token was issued by another tenant (iss)")
        checks.check_times(claims, provider=self.name, now=self._clock.now())
        if self.settings.access_token_audiences is not None:
            self._check_allowed_audience(claims)
        scopes = claims.get("scp")
        if isinstance(scopes, str) and "openid" in scopes.split():
            # The `sub` of Microsoft's tokens differs from client to client; `oid` names the person.
            return checks.merge(claims, await self.userinfo(raw))
        checks.subject_of(claims, provider=self.name)
        return claims

    def _tenant(self, claims: Claims) -> str:
        tenant = claims.get("tid")
        if not isinstance(tenant, str) or not TENANT.fullmatch(tenant):
            raise NotBelieved(f"{self.name}: the token does not name its tenant (tid)")
        return tenant


class Auth0(OidcProvider):
    """Signs out at a place of its own."""

    async def sign_out_url(self, *, id_token: str, redirect_uri: str = "") -> str | None:
        back = {"client_id": self.client_id, "returnTo": redirect_uri or self._signed_out()}
        return with_query(_on_host_of((await self._metadata()).authorization_endpoint, "/v2/logout"), back)


class Cognito(OidcProvider):
    """Signs out at a place of its own, and comes back to one registered place only; takes tokens back there too."""

    async def sign_out_url(self, *, id_token: str, redirect_uri: str = "") -> str | None:
        back = {"client_id": self.client_id, "logout_uri": self._signed_out()}
        return with_query(_on_host_of((await self._metadata()).authorization_endpoint, "/logout"), back)

    async def _metadata(self) -> Metadata:
        metadata = await super()._metadata()
        return replace(metadata, revocation_endpoint=_on_host_of(metadata.authorization_endpoint, "/oauth2/revoke"))

    async def revoke(self, token: Token) -> None:
        """It takes refresh tokens back, and with them every access token they brought; others it refuses."""
        only = token if not token.refresh_token else replace(token, access_token=NO_SECRET)
        await super().revoke(only)


class Apple(OidcProvider):
    """Fixed places, credentials in the body, and nothing but an ID token, which is verified (G-6)."""

    async def _metadata(self) -> Metadata:
        base = self.issuer.rstrip("/")
        return Metadata(
            issuer=self.issuer,
            authorization_endpoint=f"{base}/auth/authorize",
            token_endpoint=f"{base}/auth/token",
            jwks_uri=f"{base}/auth/keys",
            revocation_endpoint=f"{base}/auth/revoke",
        )

    def _open_client(self) -> Client:
        secret = self.settings.client_secret
        return Client(self._http, provider=self.name, id=self.client_id, secret=secret, style=Style.POST)

    async def verify_access_token(self, raw: str) -> Claims:
        raise Unsupported(f"{self.name} does not say whom an access token belongs to; use identity tokens")


def _tenant_in(url: str) -> str:
    """The first segment of the path."""
    return urlsplit(url).path.lstrip("/").partition("/")[0]


def _with_tenant(url: str, tenant: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.replace(_tenant_in(url), tenant, 1)))


def _on_host_of(url: str, path: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=path, query="", fragment=""))
