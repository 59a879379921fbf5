"""Small JSON documents from identity providers, fetched with bounds on everything."""

import json
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from pomerium_agent.errors import ProviderUnavailable

FETCH_SECONDS = 5.0
MAX_BYTES = 1024 * 1024
LOOPBACK = ("localhost", "127.0.0.1", "::1")


async def fetch_json(http: aiohttp.ClientSession, url: str, *, post: object = None) -> dict[str, Any]:
    """The JSON object at `url`, which must be https unless on loopback; with `post`, the answer to it.

    Raises ProviderUnavailable, which names the URL and never what was posted.
    """
    check_url(url)
    method, body = ("GET", None) if post is None else ("POST", json.dumps(post).encode())
    headers = {"Accept": "application/json", **({"Content-Type": "application/json"} if body else {})}
    timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
    try:
        async with http.request(
            method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise ProviderUnavailable(f"{url} answered {response.status}")
            answer = json.loads((await _read(response, url)).decode())
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise ProviderUnavailable(f"cannot reach {url}: {type(error).__name__}") from error
    except (ValueError, RecursionError):
        raise ProviderUnavailable(f"{url} did not answer with JSON") from None
    if not isinstance(answer, dict):
        raise ProviderUnavailable(f"{url} answered with something that is no JSON object")
    return answer


def check_url(url: str) -> None:
    """Raises ProviderUnavailable for a URL that must not be fetched."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise ProviderUnavailable(f"{url!r} is not a URL") from None
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)):
        raise ProviderUnavailable(f"{url!r} must be an https URL (http on loopback only)")


async def _read(response: aiohttp.ClientResponse, url: str) -> bytes:
    content = b""
    async for chunk in response.content.iter_chunked(65_536):
        content += chunk
        if len(content) > MAX_BYTES:
            raise ProviderUnavailable(f"{url} answered with more than {MAX_BYTES} bytes")
    return content
