"""OpenID Connect, the way most providers speak it (authenticate 6.1)."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import aiohttp

from pomerium_agent.errors import GrantEnded, NotBelieved, ProviderRefused, ProviderUnavailable, Unsupported
from pomerium_agent.idp import claims as checks
from pomerium_agent.idp.discovery import DiscoveryCache, Metadata, read_metadata
from pomerium_agent.idp.fetch import ask
from pomerium_agent.idp.identity import Claims, Identity, LogoutToken, Token, read_token, usable
from pomerium_agent.idp.jwks import JwksCache
from pomerium_agent.idp.kinds import Kind, client_id_of, issuer_of, params_of, scopes_of
from pomerium_agent.idp.settings import ProviderSettings
from pomerium_agent.idp.signed import ALGORITHMS, Object, read_object, read_unverified, verify_signature
from pomerium_agent.idp.token_endpoint import Client
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.settings import Secret

# The configuration has no say in these parameters: they are what makes a login this one.
OURS = frozenset(
    {
        "client_id",
        "code_challenge",
        "code_challenge_method",
        "nonce",
        "redirect_uri",
        "request",
        "request_uri",
        "response_type",
        "state",
    }
)
OTHER_TOKENS = frozenset({"at+jwt", "logout+jwt", "dpop+jwt", "secevent+jwt"})  # types that no ID token has
USERINFO_TYPES = ("application/jwt",)


class OidcProvider:
    """Implements Provider; the providers with ways of their own override single steps."""

    def __init__(
        self,
        settings: ProviderSettings,
        kind: Kind,
        http: aiohttp.ClientSession,
        clock: Clock,
        *,
        discovery: DiscoveryCache,
        jwks: JwksCache,
    ) -> None:
        """Raises SettingsError, which names the setting."""
        self.settings = settings
        self.kind = kind
        self.issuer = issuer_of(kind, settings)
        self.client_id = client_id_of(kind, settings)
        self.name = f"{kind.name} ({self.issuer})"
        self._http = http
        self._clock = clock
        self._discovery = discovery
        self._jwks = jwks
        self._client = self._open_client()

    # --- the browser's way ---------------------------------------------------------------------

    async def uses_pkce(self) -> bool:
        """Whenever S256 is advertised, and also when nothing is said; "plain" alone is never used."""
        methods = (await self._metadata()).code_challenge_methods if self.kind.pkce else ()
        return methods is None or "S256" in methods

    async def authorization_url(self, *, redirect_uri: str, state: str, nonce: str, code_challenge: str = "") -> str:
        metadata = await self._metadata()
        asked = self._authorization_request(redirect_uri, state, nonce, code_challenge)
        return with_query(metadata.authorization_endpoint, asked)

    async def sign_out_url(self, *, id_token: str, redirect_uri: str = "") -> str | None:
        endpoint = (await self._metadata()).end_session_endpoint
        if not endpoint:
            return None
        hint = {"id_token_hint": str(id_token)} if id_token else {}
        back = {"post_logout_redirect_uri": redirect_uri or self._signed_out()}
        return with_query(endpoint, {**hint, "client_id": self.client_id, **back})

    async def check_callback_issuer(self, issuer: str) -> None:
        metadata = await self._metadata()
        if issuer != metadata.issuer and (issuer or metadata.names_issuer_in_callback):
            raise NotBelieved(f"{self.name} did not send this callback (iss); start the login again")

    # --- our own way ---------------------------------------------------------------------------

    async def exchange(self, code: str, *, redirect_uri: str, nonce: str, code_verifier: str = "") -> Identity:
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri}
        if code_verifier:
            form["code_verifier"] = code_verifier
        metadata = await self._metadata()
        answer = await self._client.post(metadata.token_endpoint, form, metadata.token_auth_methods)
        token = read_token(answer, provider=self.name, now=self._clock.now())
        raw = answer.get("id_token")
        if not isinstance(raw, str):
            raise NotBelieved(f"{self.name} answered without an ID token; the scope openid may be missing")
        claims = await self._id_token(raw, access_token=token.access_token)
        checks.check_nonce(claims, nonce, provider=self.name)
        userinfo = await self._userinfo_of(claims, token.access_token)
        return Identity(
            claims=checks.merge(claims, userinfo), id_token=Secret(raw), id_token_claims=claims, token=token
        )

    async def refresh(self, token: Token, id_token_claims: Claims) -> Identity:
        checks.subject_of(id_token_claims, provider=self.name)  # without it nothing new could be believed
        if not token.refresh_token:
            raise GrantEnded(f"{self.name} gave no refresh token; log in again")
        metadata = await self._metadata()
        form = {"grant_type": "refresh_token", "refresh_token": str(token.refresh_token)}
        answer = await self._client.post(metadata.token_endpoint, form, metadata.token_auth_methods)
        fresh = read_token(answer, provider=self.name, now=self._clock.now(), refresh_token=token.refresh_token)
        raw, claims = await self._refreshed(answer.get("id_token"), id_token_claims, fresh)
        try:
            userinfo = await self._userinfo_of(claims or id_token_claims, fresh.access_token)
        except ProviderUnavailable:
            userinfo = {}
        return Identity(
            claims=checks.merge(claims, userinfo), id_token=Secret(raw), id_token_claims=claims, token=fresh
        )

    async def userinfo(self, access_token: str) -> Claims:
        endpoint = (await self._metadata()).userinfo_endpoint
        if not endpoint:
            return {}
        if not usable(access_token):
            raise GrantEnded(f"{self.name} never gave such an access token")
        headers = {"Accept": "application/json", "Authorization": f"Bearer {access_token!s}"}
        answer = await ask(self._http, endpoint, headers=headers)
        if answer.status == 401:
            raise GrantEnded(f"{self.name} does not accept the access token any more; log in again")
        if answer.status != 200:
            raise ProviderRefused(f"{self.name} answered {answer.status} at its userinfo endpoint; check the scopes")
        if answer.media_type in USERINFO_TYPES:
            return checks.tidy(await self._signed_userinfo(answer.body))
        try:
            return checks.tidy(read_object(answer.body))
        except ValueError:
            raise ProviderUnavailable(f"{self.name} did not answer with JSON at its userinfo endpoint") from None

    async def revoke(self, token: Token) -> None:
        """The refresh token first: it is the one that lives on. One that is refused does not save the other."""
        metadata = await self._metadata()
        if not metadata.revocation_endpoint:
            return
        refused: ProviderRefused | None = None
        for kind, value in (("refresh_token", token.refresh_token), ("access_token", token.access_token)):
            form = {"token": str(value), "token_type_hint": kind}
            try:
                if value:
                    methods = metadata.token_auth_methods
                    await self._client.post(metadata.revocation_endpoint, form, methods, bare=True)
            except ProviderRefused as error:
                refused = error
        if refused is not None:
            raise refused

    # --- tokens that others bring --------------------------------------------------------------

    async def verify_id_token(self, raw: str, *, nonce: str | None = None) -> Claims:
        claims = await self._id_token(raw)
        if nonce is not None:
            checks.check_nonce(claims, nonce, provider=self.name)
        return claims

    async def verify_access_token(self, raw: str) -> Claims:
        """By asking for userinfo with it. Where audiences are listed, the token or userinfo must name one of them."""
        if not (await self._metadata()).userinfo_endpoint:
            raise Unsupported(f"{self.name} has no userinfo endpoint, so nobody can ask about its access tokens")
        claims = dict(await self.userinfo(raw))
        checks.subject_of(claims, provider=self.name)
        if self.settings.access_token_audiences is not None:
            stated = claims if "aud" in claims else await self._access_token_claims(raw)
            self._check_allowed_audience(stated)
        return claims

    async def verify_logout_token(self, raw: str) -> LogoutToken:
        header, claims = await self._verified(raw)
        if str(header.get("typ", "JWT")).lower().removeprefix("application/") not in ("logout+jwt", "jwt"):
            raise NotBelieved(f"{self.name}: the token is of a kind that is no logout token (typ)")
        self._check_issuer(claims, await self._metadata())
        return checks.read_logout_token(claims, provider=self.name, client_id=self.client_id, now=self._clock.now())

    # --- steps that some providers take in another way -------------------------------------------

    async def _metadata(self) -> Metadata:
        metadata = read_metadata(await self._discovery.find(self.issuer), self.issuer)
        if not self._names_us(metadata.issuer):
            raise ProviderUnavailable(
                f"the discovery document of {self.name} names another issuer, {metadata.issuer!r};"
                " idp_provider_url must be exactly what the provider calls itself"
            )
        return metadata

    def _open_client(self) -> Client:
        return Client(self._http, provider=self.name, id=self.client_id, secret=self.settings.client_secret)

    def _names_us(self, issuer: str) -> bool:
        return issuer == self.issuer

    def _check_issuer(self, claims: Claims, metadata: Metadata) -> None:
        if claims.get("iss") != metadata.issuer:
            raise NotBelieved(f"{self.name}: the token was issued by somebody else (iss)")

    async def _userinfo_of(self, known: Claims, access_token: str) -> Claims:
        userinfo = await self.userinfo(access_token)
        if userinfo:
            checks.check_same_subject(userinfo, known, provider=self.name)
        return userinfo

    # --- below -----------------------------------------------------------------------------------

    def _authorization_request(self, redirect_uri: str, state: str, nonce: str, code_challenge: str) -> dict[str, str]:
        further = {name: value for name, value in params_of(self.kind, self.settings).items() if name not in OURS}
        asked = {
            "client_id": self.client_id,
            "redirect_uri": redirect_uri,
            "response_type": "code",
            "scope": " ".join(scopes_of(self.kind, self.settings)),
            "state": state,
            "nonce": nonce,
            **further,
        }
        if code_challenge:
            asked |= {"code_challenge": code_challenge, "code_challenge_method": "S256"}
        return asked

    def _signed_out(self) -> str:
        return f"{self.settings.authenticate_url}/.pomerium/signed_out"

    async def _id_token(self, raw: str, *, access_token: str = "") -> Object:
        """The claims of a believable ID token; with an access token, of one that came with it."""
        header, claims = await self._verified(raw)
        if str(header.get("typ", "")).lower().removeprefix("application/") in OTHER_TOKENS:
            raise NotBelieved(f"{self.name}: the token is of a kind that is no ID token (typ)")
        self._check_issuer(claims, await self._metadata())
        checks.check_id_token(claims, provider=self.name, client_id=self.client_id, now=self._clock.now())
        if access_token:
            checks.check_access_token_hash(claims, str(header["alg"]), access_token, provider=self.name)
        return claims

    async def _verified(self, raw: str, algorithms: tuple[str, ...] | None = None) -> tuple[Object, Object]:
        """Header and claims of a token that one of the provider's keys signed, in a way that it says it uses."""
        metadata = await self._metadata()
        try:
            header, _ = read_unverified(raw)
        except ValueError:
            raise NotBelieved(f"{self.name}: the token is not a JWT") from None
        allowed = ALGORITHMS.intersection(algorithms or metadata.algorithms)
        if header.get("alg") not in allowed:
            raise NotBelieved(f"{self.name}: the token is signed in a way that the provider does not announce (alg)")
        keys = await self._jwks.find(metadata.issuer, metadata.jwks_uri, header.get("kid", ""))
        claims = verify_signature(raw, keys, allowed)
        if claims is None:
            raise NotBelieved(f"{self.name}: no key of the provider signed the token")
        return header, claims

    async def _refreshed(self, raw: object, before: Claims, token: Token) -> tuple[str, Object]:
        """The new ID token and its claims; nothing when none came, or none can be verified now."""
        if not isinstance(raw, str) or not raw:
            return "", {}
        try:
            claims = await self._id_token(raw, access_token=token.access_token)
        except ProviderUnavailable:
            return "", {}
        checks.check_refreshed(claims, before, provider=self.name)
        return raw, claims

    async def _signed_userinfo(self, body: bytes) -> Claims:
        """Signed userinfo is of this issuer, for this client (OIDC Core 5.3.2)."""
        _, claims = await self._verified(body.decode("ascii", "replace").strip(), tuple(ALGORITHMS))
        audience = claims.get("aud", self.client_id)
        if self.client_id not in (audience if isinstance(audience, list) else [audience]):
            raise NotBelieved(f"{self.name}: the userinfo is not meant for this client (aud)")
        if "iss" in claims:
            self._check_issuer(claims, await self._metadata())
        return claims

    async def _access_token_claims(self, raw: str) -> Claims:
        """What an access token says of itself, when it is a JWT of this provider."""
        _, claims = await self._verified(raw, tuple(ALGORITHMS))
        self._check_issuer(claims, await self._metadata())
        checks.check_times(claims, provider=self.name, now=self._clock.now())
        return claims

    def _check_allowed_audience(self, claims: Claims) -> None:
        allowed = self.settings.access_token_audiences or ()
        audience: Any = claims.get("aud")
        if not any(name in allowed for name in (audience if isinstance(audience, list) else [audience])):
            raise NotBelieved(f"{self.name}: the access token is not meant for an allowed audience (aud)")


def with_query(url: str, parameters: Mapping[str, str]) -> str:
    """`url` with parameters added; what its query already says stays. Spaces as %20, which everybody reads."""
    parts = urlsplit(url)
    added = urlencode(parameters, quote_via=quote)
    return urlunsplit(parts._replace(query=f"{parts.query}&{added}" if parts.query else added, fragment=""))
