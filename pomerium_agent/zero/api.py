"""The cluster API over HTTP: one method per operation, and one place that says what an answer means (zero link 4)."""

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import quote

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from pomerium_agent.errors import ConfigRejected, ControlPlaneUnavailable, Refused
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.settings import Secret
from pomerium_agent.zero.answers import (
    BootstrapConfig,
    DownloadTicket,
    Imported,
    parse_bearer,
    parse_bootstrap,
    parse_bundle_ids,
    parse_imported,
    parse_ticket,
)
from pomerium_agent.zero.egress import proxy_for
from pomerium_agent.zero.identity import Identity
from pomerium_agent.zero.text import without
from pomerium_agent.zero.token import API_MIN_TTL, Bearer, TokenCache

MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_ERROR_CHARACTERS = 500
MAX_RETRY_AFTER = 300.0  # seconds; as long as the longest backoff, whatever a server asks for
NO_HEADERS: Mapping[str, str] = MappingProxyType({})

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How many seconds the other side may take to connect, between two pieces of an answer, and in all (W3)."""

    connect: float = 10.0
    read: float = 20.0
    total: float = 60.0
    exchange: float = 30.0
    download: float = 600.0

    def timeout(self, total: float | None = None) -> aiohttp.ClientTimeout:
        """The same, in aiohttp's words."""
        return aiohttp.ClientTimeout(
            total=self.total if total is None else total, sock_connect=self.connect, sock_read=self.read
        )


PATIENCE = Patience()


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


@dataclass(frozen=True, slots=True)
class _Operation:
    """One request, and the failures that its contract declares beside 200, 400 and 500."""

    method: str
    path: str
    declared: tuple[int, ...] = ()
    empty: bool = False  # a success says nothing more


class ClusterApi:
    """The client. It raises and never retries: whoever calls decides.

    Refused is HTTP 400 with a JSON body (Z-10), everything else that is not the declared success is
    ControlPlaneUnavailable, and its text names method, URL, status and content type; never a secret of the request,
    whatever the answer quotes.
    """

    def __init__(
        self, session: aiohttp.ClientSession, base_url: str, token: Secret, identity: Identity, *, clock: Clock,
        patience: Patience = PATIENCE,
    ) -> None:  # fmt: skip
        self._session = session
        self._base = base_url if base_url.endswith("/") else base_url + "/"
        self._token = token
        self._headers = {"User-Agent": identity.user_agent, "Accept": "application/json"}
        self._patience = patience
        self.tokens = TokenCache(self._exchange, clock)

    async def bootstrap(self) -> BootstrapConfig:
        """GET bootstrap."""
        return await self._get(_Operation("GET", "bootstrap"), parse_bootstrap)

    async def bundle_ids(self) -> tuple[str, ...]:
        """GET bundles: the ids, in the order that matters (zero link 11.2)."""
        return await self._get(_Operation("GET", "bundles"), parse_bundle_ids)

    async def download_ticket(self, bundle_id: str) -> DownloadTicket:
        """GET bundles/{bundleId}/download."""
        path = f"bundles/{quote(bundle_id, safe='')}/download"
        return await self._get(_Operation("GET", path, declared=(404,)), parse_ticket)

    async def import_config(self, compressed: bytes, hints: str) -> Imported:
        """PUT config/import: a serialized pomerium.config.Config, compressed with zstd (Z-67)."""
        more = {"Content-Type": "application/octet-stream"} | ({"X-Import-Hints": hints} if hints else {})
        return await self._get(
            _Operation("PUT", "config/import", declared=(403, 413)), parse_imported, compressed, more
        )

    async def report_usage(self, users: Sequence[Mapping[str, str]]) -> None:
        """POST reportUsage: who signed in, by pseudonym (zero link 4.2, ReportUsageUser)."""
        await self._get(_Operation("POST", "reportUsage", empty=True), lambda _: None, {"users": [*users]})

    async def try_token(self, token: Secret) -> None:
        """Whether the control plane takes `token`; raises what says that it does not. Changes nothing."""
        await self._exchange(token)

    def use(self, token: Secret) -> None:
        """Another cluster token from now on; bearers of the one before are not used any more."""
        self._token = token
        self.tokens.begin_anew()

    async def _exchange(self, token: Secret | None = None) -> Bearer:
        """POST exchangeToken; the only call that shows a cluster token: the one in use, unless another is given."""
        operation = _Operation("POST", "exchangeToken")
        shown = self._token if token is None else token
        answer = await self._send(
            operation,
            self._headers,
            {"refreshToken": str(shown)},
            self._patience.timeout(self._patience.exchange),
        )
        return self._read(operation, answer, parse_bearer, shown)

    async def _get(
        self,
        operation: _Operation,
        parse: Callable[[object], T],
        content: object = None,
        more: Mapping[str, str] = NO_HEADERS,
    ) -> T:
        bearer = await self.tokens.bearer(API_MIN_TTL)
        headers = self._headers | {"Authorization": f"Bearer {bearer}"} | dict(more)
        answer = await self._send(operation, headers, content, self._patience.timeout())
        if answer.status == 401:
            self.tokens.reset(bearer)  # Z-11: the next call exchanges anew, this one is not repeated
        return self._read(operation, answer, parse, bearer)

    async def _send(
        self, operation: _Operation, headers: dict[str, str], body: object, timeout: aiohttp.ClientTimeout
    ) -> _Answer:
        url = URL(self._base + operation.path, encoded=True)
        try:
            async with self._session.request(
                operation.method,
                url,
                headers=headers,
                json=None if isinstance(body, bytes) else body,
                data=io.BytesIO(body) if isinstance(body, bytes) else None,
                timeout=timeout,
                proxy=proxy_for(url),
                allow_redirects=body is None,  # a body holds secrets, which go where we were told to send them
            ) as response:
                return _Answer(response.status, response.headers, await read_at_most(response, MAX_ANSWER_BYTES))
        except TimeoutError:
            raise ControlPlaneUnavailable(f"{self._name(operation)}: no answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ControlPlaneUnavailable(f"{self._name(operation)}: {http_reason(error)}") from None

    def _read(self, operation: _Operation, answer: _Answer, parse: Callable[[object], T], secret: Secret) -> T:
        """The classification of zero link 4.3; `secret` is the one that the request showed."""
        if operation.empty and 200 <= answer.status < 300:
            return parse(None)
        content_type = answer.headers.get("Content-Type", "")
        said = without(content_type, secret) or "without a content type"
        where = f"{answer.status} {said} from {self._name(operation)}"
        if (response_id := answer.headers.get("X-Response-Id")) is not None:
            where += f", response id {without(response_id[:MAX_ERROR_CHARACTERS], secret)}"  # Z-13
        wait = retry_after(answer.headers) if answer.status in (429, 503) else 0.0
        if "json" not in content_type.lower():
            raise ControlPlaneUnavailable(
                f"unexpected response: {where}, and not JSON; is CLUSTER_API_ENDPOINT the address of a cluster API?",
                retry_after=wait,
            )
        if answer.status not in (200, 400, 500, *operation.declared):
            hint = "; does CLUSTER_API_ENDPOINT lack its path, /cluster/v1?" if answer.status == 404 else ""
            raise ControlPlaneUnavailable(f"unexpected response: {where}{hint}", retry_after=wait)
        try:
            document: object = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise ControlPlaneUnavailable(f"unexpected response: {where}, whose body is not JSON") from error
        if answer.status == 200:
            try:
                return parse(document)
            except ConfigRejected as error:
                raise ControlPlaneUnavailable(f"unexpected response: {where}: {error}") from error
        reason = _error_text(document, secret)
        if answer.status == 400:
            raise Refused(f"bad request: {reason} ({where})")
        if answer.status == 500:
            raise ControlPlaneUnavailable(f"internal server error: {reason} ({where})")
        raise ControlPlaneUnavailable(f"{reason} ({where})")

    def _name(self, operation: _Operation) -> str:
        return f"{operation.method} {bare_url(self._base + operation.path)}"


def retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that `Retry-After` asks for, within bounds; a date is not worth trusting two clocks for."""
    said = headers.get("Retry-After", "").strip()
    return min(float(said[:9]), MAX_RETRY_AFTER) if said.isascii() and said.isdigit() else 0.0


def bare_url(url: str) -> str:
    """Scheme, host and path: what of a URL may be written down. Signatures live in the query, passwords in the user."""
    try:
        parts = URL(url, encoded=True)
        return str(parts.with_user(None).with_query(None).with_fragment(None))
    except ValueError:
        return "(not a URL)"


class AnswerTooLong(ValueError):
    """An answer went on after its limit."""


def http_reason(error: Exception) -> str:
    """What went wrong with a request, in one line; most of aiohttp's errors quote the URL with all its secrets."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted (SSL_CERT_FILE says whom to trust): {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):  # without aiohttp's words about its own arguments
        cause = error.os_error
        # A ConnectionError quotes the address once more; the words for its number do not.
        plain = isinstance(cause, ConnectionError) and cause.errno is not None
        why = os.strerror(cause.errno or 0) if plain else cause.strerror or cause
        return f"cannot connect to {error.host}:{error.port}: {why}"
    if type(error) is aiohttp.ClientResponseError:  # what has a better name has a class of its own
        return "the answer is not HTTP/1.1; is this the address of a gRPC service, or of something else?"
    if isinstance(error, OSError | aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError | AnswerTooLong):
        return str(error) or type(error).__name__
    return type(error).__name__


async def read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body; raises AnswerTooLong when it is longer than `limit`, without reading on."""
    body = bytearray()
    async for piece in response.content.iter_chunked(65536):
        body += piece
        if len(body) > limit:
            raise AnswerTooLong(f"the answer is longer than {limit} bytes")
    return bytes(body)


def _error_text(document: object, secret: Secret) -> str:
    text = document.get("error") if isinstance(document, dict) else None
    return without(text[:MAX_ERROR_CHARACTERS], secret) if isinstance(text, str) and text else "without a reason"
