"""The Kubernetes cluster around us as an identity provider: its API server vouches for service accounts.

What its tokens name as issuer is the cluster's own affair (`https://kubernetes.default.svc.cluster.local`, or an
address at whoever runs it), so the API server is asked. Its keys always come from itself, never from an address that
it names: our own token goes along with the question.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import structlog

from pomerium_agent.errors import ProviderUnavailable
from pomerium_agent.idp.document import Document
from pomerium_agent.idp.jwks import JwksCache
from pomerium_agent.runtime.clock import Clock

log = structlog.get_logger(__name__)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


class LocalCluster:
    """Knows the issuer of this cluster's tokens, and the keys that sign them."""

    def __init__(self, api: str, http: aiohttp.ClientSession, clock: Clock) -> None:
        self.jwks_url = f"{api}/openid/v1/jwks"
        self.jwks = JwksCache(http, clock)
        self._discovery = Document(http, clock, f"{api}/.well-known/openid-configuration", _issuer)

    async def issuer(self) -> str:
        """What tokens of this cluster name as `iss`. Raises ProviderUnavailable."""
        return await self._discovery.get()


def _issuer(document: dict[str, Any]) -> str:
    issuer = document.get("issuer")
    if not isinstance(issuer, str) or not issuer:
        raise ProviderUnavailable("the API server names no issuer of its tokens")
    return issuer


@asynccontextmanager
async def open_cluster(
    environ: Mapping[str, str], clock: Clock, *, service_account: Path = SERVICE_ACCOUNT
) -> AsyncIterator[LocalCluster | None]:
    """The cluster that environment and mounts speak of; None outside of one."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        yield None
        return
    try:
        tls = await asyncio.to_thread(ssl.create_default_context, cafile=str(service_account / "ca.crt"))
    except OSError as error:  # ssl.SSLError is one
        log.warning("kubernetes cluster cannot be asked", reason=f"{service_account / 'ca.crt'}: {error}")
        yield None
        return
    tls.minimum_version = ssl.TLSVersion.TLSv1_2

    async def authenticate(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Our token is read for each question, since projected ones are replaced while they are valid."""
        token = await asyncio.to_thread(_read_token, service_account / "token")
        if token:
            request.headers["Authorization"] = f"Bearer {token}"
        return await handler(request)

    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=tls), cookie_jar=aiohttp.DummyCookieJar(), middlewares=(authenticate,)
    ) as http:
        yield LocalCluster(f"https://{authority}", http, clock)


def _read_token(path: Path) -> str:
    """Empty without one: an API server may answer strangers too, and says so when it does not."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
