"""A document of an identity provider, fetched when it is needed, and kept in use while the provider is away."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import aiohttp

from pomerium_agent.errors import ProviderUnavailable
from pomerium_agent.idp.fetch import fetch_document
from pomerium_agent.runtime.clock import Clock

FRESH_SECONDS = 600.0  # asked for again after this, unless the document says otherwise,
MIN_FRESH_SECONDS = 60.0  # within these bounds
MAX_FRESH_SECONDS = 3600.0
STALE_SECONDS = 86_400.0  # used for so long while the provider cannot be asked (architecture 7)
REFETCH_SECONDS = 30.0  # something unknown, or a failure, is not asked about more often than this,
FIRST_SECONDS = 5.0  # or than this while nothing is known at all
MAX_DOCUMENTS = 256

T = TypeVar("T")


class Document(Generic[T]):
    """What one URL says. `parse` raises ProviderUnavailable for a document that cannot be used."""

    def __init__(
        self, http: aiohttp.ClientSession, clock: Clock, url: str, parse: Callable[[dict[str, Any]], T]
    ) -> None:
        self._http = http
        self._clock = clock
        self._url = url
        self._parse = parse
        self._known: T | None = None
        self._fetched_at = 0.0
        self._fresh_until = 0.0
        self._tried_at: float | None = None
        self._failure = ""
        self._lock = asyncio.Lock()

    async def get(self, suffices: Callable[[T], bool] = lambda _: True) -> T:
        """What is known; asked for anew when it is old or does not suffice. Raises ProviderUnavailable."""
        if self._due(suffices):
            enough = self._known is not None and suffices(self._known)
            if not (enough and self._lock.locked()):  # who has enough does not wait for the one who asks
                async with self._lock:
                    if self._due(suffices):
                        await self._fetch()
        stale = self._clock.monotonic() - self._fetched_at > STALE_SECONDS
        if self._known is None or stale or (self._failure and not suffices(self._known)):
            raise ProviderUnavailable(self._failure or f"{self._url} is not known")
        return self._known

    def _due(self, suffices: Callable[[T], bool]) -> bool:
        now = self._clock.monotonic()
        pause = FIRST_SECONDS if self._known is None else REFETCH_SECONDS
        if self._tried_at is not None and now - self._tried_at < pause:
            return False
        return self._known is None or now >= self._fresh_until or not suffices(self._known)

    async def _fetch(self) -> None:
        """A failure is remembered; what was known stays in use."""
        try:
            answer = await fetch_document(self._http, self._url)
            self._known = self._parse(answer.json())
        except ProviderUnavailable as error:
            self._failure = str(error)
        else:
            self._failure = ""
            self._fetched_at = self._clock.monotonic()
            age = FRESH_SECONDS if answer.max_age is None else answer.max_age
            self._fresh_until = self._fetched_at + min(max(age, MIN_FRESH_SECONDS), MAX_FRESH_SECONDS)
        self._tried_at = self._clock.monotonic()


class Shelf(Generic[T]):
    """Documents by URL; beyond a bound, the one that nobody asked for the longest makes room."""

    def __init__(
        self, http: aiohttp.ClientSession, clock: Clock, parse: Callable[[dict[str, Any]], T], size: int = MAX_DOCUMENTS
    ) -> None:
        self._http = http
        self._clock = clock
        self._parse = parse
        self._size = size
        self._documents: OrderedDict[str, Document[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._documents)

    def document(self, url: str) -> Document[T]:
        document = self._documents.get(url)
        if document is None:
            document = self._documents[url] = Document(self._http, self._clock, url, self._parse)
            if len(self._documents) > self._size:
                self._documents.popitem(last=False)
        self._documents.move_to_end(url)
        return document
