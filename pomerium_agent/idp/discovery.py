"""What a provider says of itself: OpenID Connect discovery, read with care (authenticate 6.1)."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from pomerium_agent.errors import ProviderUnavailable
from pomerium_agent.idp.document import Shelf
from pomerium_agent.idp.fetch import check_url
from pomerium_agent.runtime.clock import Clock

REQUIRED = ("authorization_endpoint", "token_endpoint", "jwks_uri")
OPTIONAL = ("userinfo_endpoint", "revocation_endpoint", "end_session_endpoint")
MAX_LISTED = 100
MAX_URL = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Where to ask, and what the provider can do. An empty endpoint: it has none; None: it does not say."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    revocation_endpoint: str = ""
    end_session_endpoint: str = ""
    algorithms: tuple[str, ...] = ("RS256",)  # of ID tokens
    code_challenge_methods: tuple[str, ...] | None = None
    token_auth_methods: tuple[str, ...] | None = None
    names_issuer_in_callback: bool = False  # RFC 9207


class DiscoveryCache:
    """Discovery documents by issuer."""

    def __init__(self, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._shelf = Shelf(http, clock, _usable)

    async def find(self, issuer: str) -> dict[str, Any]:
        """The document, as it is: whether it may name that issuer is for the caller to check."""
        return await self._shelf.document(f"{issuer.rstrip('/')}/.well-known/openid-configuration").get()


def read_metadata(document: dict[str, Any], asked: str) -> Metadata:
    """What a discovery document says. Raises ProviderUnavailable for one that nobody could work with. Pure.

    `asked` is the configured issuer. An endpoint without TLS is believed of an issuer without TLS only, which must be
    on loopback itself: nobody from outside sends us there.
    """
    endpoints = {name: _endpoint(document, name, asked) for name in (*REQUIRED, *OPTIONAL)}
    missing = [name for name in REQUIRED if not endpoints[name]]
    if missing:
        raise ProviderUnavailable(f"the discovery document of {asked} has no {' and no '.join(missing)}")
    return Metadata(
        issuer=_text(document, "issuer"),
        **endpoints,
        algorithms=_names(document, "id_token_signing_alg_values_supported") or ("RS256",),
        code_challenge_methods=_names(document, "code_challenge_methods_supported"),
        token_auth_methods=_names(document, "token_endpoint_auth_methods_supported"),
        names_issuer_in_callback=document.get("authorization_response_iss_parameter_supported") is True,
    )


def _usable(document: dict[str, Any]) -> dict[str, Any]:
    """What does not even name issuer and keys does not replace a document that did."""
    for name in ("issuer", "jwks_uri"):
        if not _text(document, name):
            raise ProviderUnavailable(f"an identity provider's discovery document has no {name}")
    return document


def _endpoint(document: dict[str, Any], name: str, asked: str) -> str:
    url = _text(document, name)
    if url:
        check_url(url)
        if urlsplit(url).scheme != "https" and urlsplit(asked).scheme == "https":
            raise ProviderUnavailable(f"the {name} in the discovery document of {asked} is not https")
    return url


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) and len(value) <= MAX_URL and value.isascii() and value.isprintable() else ""


def _names(document: dict[str, Any], name: str) -> tuple[str, ...] | None:
    listed = document.get(name)
    if not isinstance(listed, list):
        return None
    return tuple(value for value in listed[:MAX_LISTED] if isinstance(value, str))
