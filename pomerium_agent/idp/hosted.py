"""The hosted authenticate service as an OpenID Connect provider: requests are signed (authenticate 5.4)."""

import uuid
from typing import Any

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc.jwk import OKPKey

from pomerium_agent.errors import SettingsError
from pomerium_agent.idp.discovery import DiscoveryCache
from pomerium_agent.idp.jwks import JwksCache
from pomerium_agent.idp.kinds import Kind
from pomerium_agent.idp.oidc import OidcProvider, with_query
from pomerium_agent.idp.settings import ProviderSettings
from pomerium_agent.idp.signed import sign
from pomerium_agent.idp.token_endpoint import Client, Style
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.version import full_version
from pomerium_agent.settings import Secret

LIFETIME_SECONDS = 300
SEED_BYTES = 32
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Hosted(OidcProvider):
    """`client_key` is the seed of an Ed25519 key, derived from the cluster's shared secret (authenticate 3.1)."""

    def __init__(
        self,
        settings: ProviderSettings,
        kind: Kind,
        http: aiohttp.ClientSession,
        clock: Clock,
        *,
        discovery: DiscoveryCache,
        jwks: JwksCache,
        client_key: bytes,
    ) -> None:
        if len(client_key) != SEED_BYTES:
            raise SettingsError(f"shared_secret must be set for idp_provider {kind.name}: its client key comes from it")
        private = Ed25519PrivateKey.from_private_bytes(client_key)
        self._key = OKPKey.import_key(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        super().__init__(settings, kind, http, clock, discovery=discovery, jwks=jwks)

    async def authorization_url(self, *, redirect_uri: str, state: str, nonce: str, code_challenge: str = "") -> str:
        """Everything is in one signed parameter, so nobody on the way can change it."""
        metadata = await self._metadata()
        asked = self._authorization_request(redirect_uri, state, nonce, code_challenge)
        request = self._signed({**asked, "iss": self.client_id, "aud": self.issuer})
        return with_query(metadata.authorization_endpoint, {"request": request})

    def _open_client(self) -> Client:
        return Client(
            self._http,
            provider=self.name,
            id=self.client_id,
            secret=Secret(""),
            style=Style.ASSERTION,
            assertion=self._assertion,
        )

    def _assertion(self, url: str) -> dict[str, str]:
        claims = {"iss": self.client_id, "sub": self.client_id, "aud": [url], "jti": str(uuid.uuid4())}
        return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": self._signed(claims)}

    def _signed(self, claims: dict[str, Any]) -> str:
        now = int(self._clock.now().timestamp())
        times = {"iat": now, "exp": now + LIFETIME_SECONDS}
        header = {"alg": "EdDSA", "typ": "JWT", "jwk": self._key.as_dict(private=False)}
        return sign(header, {**claims, **times, "pomerium_version": full_version()}, self._key)
