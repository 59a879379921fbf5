"""The public keys of identity providers, fetched when they are needed and remembered for a while."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from pomerium_agent.errors import ProviderUnavailable
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.sessions.fetch import fetch_json

FRESH_SECONDS = 600.0  # keys are asked for again after this
STALE_SECONDS = 86_400.0  # keys are used for so long while the provider cannot be asked
REFETCH_SECONDS = 30.0  # an unknown key id, or a failure, is not asked about more often than this
MAX_KEYS = 100
KEY_TYPES: dict[str, type[RSAKey | ECKey | OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}


@dataclass(slots=True)
class _Known:
    """What is known of one provider."""

    keys: tuple[tuple[str, Key], ...] = ()
    fetched_at: float | None = None
    tried_at: float | None = None
    failure: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class JwksCache:
    """Keys by provider. `issuer` is where they are discovered when no URL is configured.

    There is one entry per configured provider, so it is bounded by the configuration; make a new cache for a new one.
    """

    def __init__(self, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._known: dict[tuple[str, str], _Known] = {}

    async def find(self, issuer: str, jwks_url: str, kid: str) -> tuple[Key, ...]:
        """The keys with that id, or all of them when the token names none. Raises ProviderUnavailable.

        A key id that is not known is looked for once more, since keys roll; garbage cannot make us ask more often than
        every thirty seconds.
        """
        known = self._known.setdefault((issuer, jwks_url), _Known())
        found = _matching(known, kid)
        if self._due(known, missing=not found):
            async with known.lock:  # whoever comes meanwhile waits for this answer and does not ask again
                if self._due(known, missing=not _matching(known, kid)):
                    await self._fetch(known, issuer, jwks_url)
            found = _matching(known, kid)
        stale = known.fetched_at is None or self._clock.monotonic() - known.fetched_at > STALE_SECONDS
        if stale or (known.failure and not found):
            raise ProviderUnavailable(known.failure or f"the keys of {issuer} are not known")
        return found

    def _due(self, known: _Known, *, missing: bool) -> bool:
        now = self._clock.monotonic()
        if known.tried_at is not None and now - known.tried_at < REFETCH_SECONDS:
            return False
        return missing or known.fetched_at is None or now - known.fetched_at > FRESH_SECONDS

    async def _fetch(self, known: _Known, issuer: str, jwks_url: str) -> None:
        """A failure is remembered; the keys that were known stay in use (architecture 7)."""
        try:
            known.keys = _keys(await fetch_json(self._http, jwks_url or await self._discover(issuer)))
        except ProviderUnavailable as error:
            known.failure = str(error)
        else:
            known.fetched_at, known.failure = self._clock.monotonic(), ""
        known.tried_at = self._clock.monotonic()

    async def _discover(self, issuer: str) -> str:
        document = await fetch_json(self._http, f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        if document.get("issuer") != issuer:
            raise ProviderUnavailable(f"the discovery document of {issuer} names another issuer")
        url = document.get("jwks_uri")
        if not isinstance(url, str):
            raise ProviderUnavailable(f"the discovery document of {issuer} has no jwks_uri")
        return url


def _matching(known: _Known, kid: str) -> tuple[Key, ...]:
    return tuple(key for id, key in known.keys if not kid or id == kid)


def _keys(document: dict[str, Any]) -> tuple[tuple[str, Key], ...]:
    """The usable keys; one that cannot be read, or is for encryption, stands aside. Symmetric ones are never used."""
    listed = document.get("keys")
    keys: list[tuple[str, Key]] = []
    for jwk in listed[:MAX_KEYS] if isinstance(listed, list) else []:
        if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
            continue
        kind = KEY_TYPES.get(str(jwk.get("kty")))
        kid = jwk.get("kid", "")
        try:
            if kind is not None and isinstance(kid, str):
                keys.append((kid, kind.import_key({name: jwk[name] for name in jwk if name not in ("key_ops", "x5c")})))
        except (JoseError, ValueError, TypeError, KeyError):
            continue
    return tuple(keys)
