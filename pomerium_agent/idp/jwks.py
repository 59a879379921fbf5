"""The public keys of identity providers, fetched when they are needed and remembered for a while."""

from typing import Any

import aiohttp
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from pomerium_agent.errors import ProviderUnavailable
from pomerium_agent.idp.discovery import DiscoveryCache
from pomerium_agent.idp.document import Shelf
from pomerium_agent.runtime.clock import Clock

MAX_KEYS = 100
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192  # beyond it, checking a signature is work that a stranger could make us do
KEY_TYPES: dict[str, type[RSAKey | ECKey | OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
NAMES = ("kty", "kid", "use", "alg", "crv", "x", "y", "n", "e")  # public parts only

Keys = tuple[tuple[str, Key], ...]


class JwksCache:
    """Keys by provider. `issuer` is where they are discovered when no URL is configured."""

    def __init__(self, http: aiohttp.ClientSession, clock: Clock, discovery: DiscoveryCache | None = None) -> None:
        self._discovery = discovery or DiscoveryCache(http, clock)
        self._shelf: Shelf[Keys] = Shelf(http, clock, read_keys)

    async def find(self, issuer: str, jwks_url: str, kid: str) -> tuple[Key, ...]:
        """The keys with that id, or all of them when the token names none. Raises ProviderUnavailable.

        A key id that is not known is looked for once more, since keys roll; garbage cannot make us ask more often than
        every thirty seconds.
        """
        document = self._shelf.document(jwks_url or await self._discover(issuer))
        return _matching(await document.get(lambda keys: bool(_matching(keys, kid))), kid)

    async def _discover(self, issuer: str) -> str:
        document = await self._discovery.find(issuer)
        if document.get("issuer") != issuer:
            raise ProviderUnavailable(f"the discovery document of {issuer} names another issuer")
        return str(document["jwks_uri"])


def _matching(keys: Keys, kid: str) -> tuple[Key, ...]:
    return tuple(key for id, key in keys if not kid or id == kid)


def read_keys(document: dict[str, Any]) -> Keys:
    """The usable keys; one that cannot be read, is weak or for encryption stands aside, and so does a symmetric one.

    Raises ProviderUnavailable for what is no key set, so that the keys that were known stay in use.
    """
    listed = document.get("keys")
    if not isinstance(listed, list):
        raise ProviderUnavailable("an identity provider's key set lists no keys")
    keys: list[tuple[str, Key]] = []
    for jwk in listed[:MAX_KEYS]:
        if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
            continue
        kind = KEY_TYPES.get(str(jwk.get("kty")))
        kid = jwk.get("kid", "")
        if kind is None or not isinstance(kid, str) or not _strong(jwk):
            continue
        try:
            keys.append((kid, kind.import_key({name: jwk[name] for name in NAMES if name in jwk})))
        except (JoseError, ValueError, TypeError, KeyError):
            continue
    return tuple(keys)


def _strong(jwk: dict[str, Any]) -> bool:
    """An RSA modulus is of a size that is neither forged nor endless; judged by its text, before it is read."""
    modulus = jwk.get("n", "")
    return jwk.get("kty") != "RSA" or (
        isinstance(modulus, str) and MIN_RSA_BITS <= len(modulus.rstrip("=")) * 6 <= MAX_RSA_BITS + 48
    )
