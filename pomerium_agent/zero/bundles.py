"""Fetching one bundle: its signed URL, the conditional request, and its body read within bounds (zero link 11)."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import unquote_plus

import aiohttp
from yarl import URL

from pomerium_agent.databroker.bundle_entry import CacheEntry
from pomerium_agent.errors import ConfigRejected, ControlPlaneUnavailable
from pomerium_agent.records import Record
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.zero.answers import DownloadTicket
from pomerium_agent.zero.api import PATIENCE, ClusterApi, Patience, bare_url, http_reason
from pomerium_agent.zero.bundle_format import MAX_BUNDLE_BYTES, BundleReader
from pomerium_agent.zero.egress import proxy_for
from pomerium_agent.zero.gunzip import PIECE_BYTES, Gunzip
from pomerium_agent.zero.identity import Identity
from pomerium_agent.zero.s3_error import MAX_BYTES, parse_s3_error
from pomerium_agent.zero.text import clean_text, without

URL_MARGIN = timedelta(minutes=15)  # a URL is used until so long before it expires (Z-33)
SECRET_CHARACTERS = 12  # of a value in a signed URL; shorter ones are numbers and dates


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """The bundle is the one we have. `metadata` is None when the answer did not say any."""

    last_modified: str
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Downloaded:
    """A bundle, whole, and the response headers to report back."""

    etag: str
    last_modified: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    records: tuple[Record, ...] = ()


class DownloadUrls:
    """The signed URLs, one per bundle, used again while they are good for a while (Z-33)."""

    def __init__(self, api: ClusterApi, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._tickets: dict[str, tuple[float, DownloadTicket]] = {}

    async def get(self, bundle_id: str) -> DownloadTicket:
        """A ticket that is good for a while, asked for if need be."""
        asked_at = self._clock.monotonic()
        known = self._tickets.get(bundle_id)
        if known is not None and known[0] - asked_at >= URL_MARGIN.total_seconds():
            return known[1]
        ticket = await self._api.download_ticket(bundle_id)
        self._tickets[bundle_id] = (asked_at + ticket.expires_in.total_seconds(), ticket)
        return ticket

    def drop(self, bundle_id: str) -> None:
        """Forget a URL that was not accepted (W7)."""
        self._tickets.pop(bundle_id, None)


class Downloader:
    """Fetches bundles. No request carries our bearer: the URL is the permission (Z-14).

    What cannot be reached or was cut off on its way is ControlPlaneUnavailable; what arrived whole and is not
    a bundle is ConfigRejected. No error shows the URL's query, which holds the signature.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        urls: DownloadUrls,
        identity: Identity,
        *,
        patience: Patience = PATIENCE,
        max_bytes: int = MAX_BUNDLE_BYTES,
    ) -> None:
        self._session = session
        self._urls = urls
        self._headers = {"User-Agent": identity.user_agent, "Accept-Encoding": "gzip"}
        self._timeout = patience.timeout(patience.download)
        self._max_bytes = max_bytes

    async def fetch(self, bundle_id: str, have: CacheEntry | None) -> Downloaded | Unchanged:
        """The bundle, or the news that `have` is still it (Z-34)."""
        ticket = await self._urls.get(bundle_id)
        headers = self._headers | ({"If-None-Match": have.etag} if have else {})
        async with self._request("GET", ticket, headers) as response:
            if response.status == 200:
                return await self._read(response, ticket)
            if response.status != 304 or have is None:
                raise await self._failure(bundle_id, response, ticket)
            last_modified = _header(response, "Last-Modified") or have.last_modified
            metadata = _captured(response, ticket)
        if last_modified == have.last_modified:
            return Unchanged(last_modified=last_modified, metadata=metadata or None)
        return await self.describe(bundle_id, have)

    async def describe(self, bundle_id: str, have: CacheEntry) -> Unchanged:
        """What the storage says of the bundle that we have, without its body (Z-35); raises when it is another one."""
        ticket = await self._urls.get(bundle_id)
        async with self._request("HEAD", ticket, self._headers) as response:
            if response.status != 200:
                raise await self._failure(bundle_id, response, ticket)
            if _header(response, "ETag") != have.etag:
                raise ControlPlaneUnavailable(f"{_name(response)}: the bundle changed while we looked at it")
            return Unchanged(last_modified=_header(response, "Last-Modified"), metadata=_captured(response, ticket))

    async def _read(self, response: aiohttp.ClientResponse, ticket: DownloadTicket) -> Downloaded:
        if response.content_type == "text/html":
            raise ControlPlaneUnavailable(f"{_name(response)} answered 200 text/html, which is a page and not a bundle")
        etag = _header(response, "ETag")
        if not etag:
            raise ControlPlaneUnavailable(f"{_name(response)} answered without an ETag")
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        reader = BundleReader(self._max_bytes)
        if encoding == "gzip":
            gunzip = Gunzip()
            async for piece in response.content.iter_chunked(PIECE_BYTES):
                for plain in gunzip.feed(piece):
                    reader.feed(plain)
            for plain in gunzip.finish():
                reader.feed(plain)
        elif encoding != "identity":
            raise ControlPlaneUnavailable(f"{_name(response)} answered in encoding {encoding[:40]!r}; gzip was offered")
        elif response.content_length is None and "chunked" not in response.headers.get("Transfer-Encoding", ""):
            # A connection that just ends would look like the end of the bundle, and what follows would be deleted (W8).
            raise ControlPlaneUnavailable(f"{_name(response)} answered without a length; the bundle may be cut short")
        else:
            async for piece in response.content.iter_chunked(PIECE_BYTES):
                reader.feed(piece)
        return Downloaded(
            etag=etag,
            last_modified=_header(response, "Last-Modified"),
            metadata=_captured(response, ticket),
            records=reader.finish(),
        )

    async def _failure(
        self, bundle_id: str, response: aiohttp.ClientResponse, ticket: DownloadTicket
    ) -> ControlPlaneUnavailable:
        if 400 <= response.status < 500:
            self._urls.drop(bundle_id)  # W7: storage services answer 400 or 403 to a stale signature
        answer = f"{response.status} {response.reason or ''}".strip()
        said = None
        if response.content_type == "application/xml":
            said = parse_s3_error(await _beginning(response))
        words = without(answer + (f": {said}" if said else ""), *_secrets_of(ticket))
        return ControlPlaneUnavailable(f"{_name(response)} answered {words}")

    @asynccontextmanager
    async def _request(
        self, method: str, ticket: DownloadTicket, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One request, whose failures come out as ours; never `from` theirs, which quote the URL's secrets."""
        name = f"{method} {bare_url(ticket.url)}"
        try:
            url = URL(ticket.url, encoded=True)  # to the letter: the signature covers it
            async with self._session.request(
                method,
                url,
                headers=headers,
                timeout=self._timeout,
                proxy=proxy_for(url),
                allow_redirects=True,
            ) as response:
                yield response
        except TimeoutError:
            raise ControlPlaneUnavailable(f"{name}: the download stalled") from None
        except aiohttp.ClientPayloadError:
            raise ControlPlaneUnavailable(f"{name}: the download was cut short") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ControlPlaneUnavailable(f"{name}: {http_reason(error)}") from None


def _name(response: aiohttp.ClientResponse) -> str:
    return f"{response.method} {bare_url(str(response.url))}"


def _secrets_of(ticket: DownloadTicket) -> Iterator[str]:
    """Everything in the query, of which a part may be the permission; short values are no secrets."""
    _, _, query = ticket.url.partition("?")
    yield query
    for part in query.split("&"):
        _, _, value = part.partition("=")
        if len(value) >= SECRET_CHARACTERS:
            yield from (value, unquote_plus(value))


def _header(response: aiohttp.ClientResponse, name: str) -> str:
    return clean_text(response.headers.get(name, ""))


def _captured(response: aiohttp.ClientResponse, ticket: DownloadTicket) -> dict[str, str]:
    """The headers that the control plane wants to hear back, under the names it used (Z-44)."""
    return {name: value for name in ticket.capture_headers if (value := _header(response, name))}


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """The first 32 KiB of an error body."""
    body = bytearray()
    async for piece in response.content.iter_chunked(MAX_BYTES):
        body += piece
        if len(body) >= MAX_BYTES:
            break
    if response.headers.get("Content-Encoding", "").lower() != "gzip":
        return bytes(body[:MAX_BYTES])
    try:
        return next(Gunzip().feed(bytes(body)), b"")[:MAX_BYTES]
    except ConfigRejected:
        return b""
