"""The promise that every identity provider keeps, whatever it is made of."""

from typing import Protocol

from pomerium_agent.idp.identity import Claims, Identity, LogoutToken, Token
from pomerium_agent.idp.kinds import Kind
from pomerium_agent.idp.settings import ProviderSettings


class Provider(Protocol):
    """Asks one identity provider who somebody is.

    Whatever asks the provider raises ProviderUnavailable when it cannot be asked now, ProviderRefused when it says no
    (GrantEnded when a code or token is over), and NotBelieved when its answer, or a token in its name, fails a check.
    No text of an error holds a token, a code or a secret (N-33).
    """

    settings: ProviderSettings
    kind: Kind
    name: str  # for people: "google (https://accounts.google.com)"

    async def uses_pkce(self) -> bool:
        """Whether the authorization request must carry a code challenge (S256; N-23)."""

    async def authorization_url(self, *, redirect_uri: str, state: str, nonce: str, code_challenge: str = "") -> str:
        """Where to send the browser for a login."""

    async def exchange(self, code: str, *, redirect_uri: str, nonce: str, code_verifier: str = "") -> Identity:
        """Trade the code of a callback for tokens, verified, and learn who it was."""

    async def refresh(self, token: Token, id_token_claims: Claims) -> Identity:
        """Fresh tokens and claims for somebody known; `id_token_claims` must hold their `sub` (authenticate 7.3).

        A provider may replace the refresh token with each use. So once it has answered, the new tokens are returned
        even when keys or userinfo cannot be had just now; the ID token or claims are then missing, which means
        "nothing new".
        """

    async def userinfo(self, access_token: str) -> Claims:
        """What the provider says of the token's owner; empty when it has no userinfo endpoint."""

    async def revoke(self, token: Token) -> None:
        """Give the tokens back, where the provider takes them back."""

    async def sign_out_url(self, *, id_token: str, redirect_uri: str = "") -> str | None:
        """Where to send the browser to sign out there too; None when the provider has no such place.

        Without a `redirect_uri` it comes back to our page `signed_out`. With `kind.fixed_sign_out` it always does.
        """

    async def check_callback_issuer(self, issuer: str) -> None:
        """Raises NotBelieved when the callback's `iss` parameter shows that another provider sent it (RFC 9207)."""

    async def verify_id_token(self, raw: str, *, nonce: str | None = None) -> Claims:
        """The claims of an ID token for this client."""

    async def verify_access_token(self, raw: str) -> Claims:
        """Who an access token speaks for, if it is meant for an allowed audience (authenticate 8.7)."""

    async def verify_logout_token(self, raw: str) -> LogoutToken:
        """What a back-channel logout request says."""
