"""Questions to identity providers, with bounds on everything: time, size, where they go and what may come back."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

from pomerium_agent.errors import ProviderUnavailable

FETCH_SECONDS = 5.0
MAX_BYTES = 1024 * 1024
MAX_REDIRECTS = 3
LOOPBACK = ("localhost", "127.0.0.1", "::1")
# They say nothing of the question, only that this is no moment to ask it (authenticate G-9).
PASSING = frozenset({408, 425, 429})
MAX_AGE = re.compile(r"(?:^|[,\s])max-age=\"?(\d{1,9})\"?(?:$|[,\s])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a provider answered. `max_age`: the seconds it may be kept, None when that is not said."""

    url: str
    status: int
    media_type: str = ""
    max_age: int | None = None
    rate_limited: bool = False  # the headers say that a refusal is about how many questions were asked
    body: bytes = b""

    def json(self) -> dict[str, Any]:
        """Raises ProviderUnavailable: an answer in the wrong form comes from something that stands in the way."""
        try:
            answer = json.loads(self.body.decode())
        except (ValueError, RecursionError):
            raise ProviderUnavailable(f"{self.url} did not answer with JSON") from None
        if not isinstance(answer, dict):
            raise ProviderUnavailable(f"{self.url} answered with something that is no JSON object")
        return answer


async def ask(
    http: aiohttp.ClientSession,
    url: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    redirects: int = 0,
) -> Answer:
    """What `url` answers, unless that is a redirect or says "not now"; it must be https unless on loopback.

    `redirects` are followed to the same origin only; a question that carries credentials gives none. Raises
    ProviderUnavailable, which names the URL and never what was sent.
    """
    check_url(url)
    timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
    try:
        async with http.request(
            method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            status = response.status
            if status < 300 or (400 <= status < 500 and status not in PASSING):
                age = MAX_AGE.search(response.headers.get("Cache-Control", ""))
                return Answer(
                    url=url,
                    status=status,
                    media_type=response.content_type.lower(),
                    max_age=int(age[1]) if age else None,
                    rate_limited=_rate_limited(response.headers),
                    body=await _read(response, url),
                )
            target = response.headers.get("Location", "")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise ProviderUnavailable(f"cannot reach {url}: {type(error).__name__}") from error
    if redirects and status in (301, 302, 303, 307, 308) and _same_origin(url, target):
        return await ask(http, urljoin(url, target), headers=headers, redirects=redirects - 1)
    raise ProviderUnavailable(f"{url} answered {status}")


async def fetch_json(
    http: aiohttp.ClientSession, url: str, *, post: bytes | None = None, headers: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The JSON object at `url`; with `post`, the answer to that JSON. Raises ProviderUnavailable."""
    return (await fetch_document(http, url, post=post, headers=headers)).json()


async def fetch_document(
    http: aiohttp.ClientSession, url: str, *, post: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """The document at `url`, answered with status 200. Raises ProviderUnavailable."""
    sent = {"Accept": "application/json", **(headers or {})}
    if post is None:
        answer = await ask(http, url, headers=sent, redirects=MAX_REDIRECTS)
    else:
        answer = await ask(http, url, method="POST", headers={**sent, "Content-Type": "application/json"}, body=post)
    if answer.status != 200:
        raise ProviderUnavailable(f"{url} answered {answer.status}")
    return answer


def check_url(url: str) -> None:
    """Raises ProviderUnavailable for a URL that must not be fetched."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ProviderUnavailable(f"{url!r} is not a URL") from None
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)):
        raise ProviderUnavailable(f"{url!r} must be an https URL (http on loopback only)")
    if "@" in parts.netloc:
        raise ProviderUnavailable(f"the URL of {host} must not carry a user name or password")


def _rate_limited(headers: Mapping[str, str]) -> bool:
    return "Retry-After" in headers or headers.get("X-RateLimit-Remaining") == "0"


def _same_origin(url: str, target: str) -> bool:
    try:
        here, there = urlsplit(url), urlsplit(urljoin(url, target))
        return bool(target) and (here.scheme, here.hostname, here.port) == (there.scheme, there.hostname, there.port)
    except ValueError:
        return False


async def _read(response: aiohttp.ClientResponse, url: str) -> bytes:
    content = b""
    async for chunk in response.content.iter_chunked(65_536):
        content += chunk
        if len(content) > MAX_BYTES:
            raise ProviderUnavailable(f"{url} answered with more than {MAX_BYTES} bytes")
    return content
