"""Google's proof of who we are, for upstreams on its serverless platforms (authorize 16).

A token is fetched as soon as a route wants it and anew before it expires, beside the checks: a check takes what is
there, and waits for the very first answer only, not for long. Without a token the request goes on without one.
"""

import asyncio
import base64
import json
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import aiohttp
import structlog

from pomerium_agent.authorize.rules import Rules
from pomerium_agent.config.snapshot import GoogleAccount
from pomerium_agent.errors import ProviderUnavailable
from pomerium_agent.runtime.backoff import patient
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.sessions.signer import read_signer

log = structlog.get_logger(__name__)

METADATA = "http://metadata"
IDENTITY = "/computeMetadata/v1/instance/service-accounts/default/identity?format=full&audience="
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
KEPT_SECONDS = 2700.0  # a token is fetched anew after 45 minutes
LIFETIME = timedelta(hours=1)  # what Google gives a token, and the longest we would use one
MARGIN = timedelta(minutes=1)  # before its end, in which it is used no more: it still has to arrive
FIRST_SECONDS = 2.0  # that a check may wait for the first answer
FETCH_SECONDS = 10.0
FETCHES = 8  # at one time
MAX_BYTES = 64 * 1024


_Key = tuple[GoogleAccount | None, str]  # who we are, and to whom


@dataclass(slots=True)
class _Kept:
    """The token for one audience. `tried` is set after the first answer, good or bad."""

    token: str = ""
    until: float = 0.0
    failure: str = ""
    tried: asyncio.Event = field(default_factory=asyncio.Event)


class ServerlessTokens:
    """Keeps an identity token for every audience that the rules name, of the account that they name."""

    def __init__(
        self,
        rules: Latest[Rules],
        http: aiohttp.ClientSession,
        clock: Clock,
        health: Health,
        *,
        metadata: str = METADATA,
        first_seconds: float = FIRST_SECONDS,
    ) -> None:
        self._rules = rules
        self._http = http
        self._clock = clock
        self._health = health
        self._metadata = metadata
        self._first_seconds = first_seconds
        self._kept: dict[_Key, _Kept] = {}
        self._fetches = asyncio.Semaphore(FETCHES)

    def token(self, audience: str) -> str:
        """A token that is good for a while; empty when there is none."""
        kept = self._of(audience)
        return kept.token if self._clock.now().timestamp() < kept.until else ""

    def awaited(self, audience: str) -> bool:
        """Whether the first answer for this audience is still to come."""
        return not self._of(audience).tried.is_set()

    async def wait(self, audience: str) -> None:
        """Return at the first answer, or when that takes too long for somebody who wants to see a page."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._first_seconds):
                await self._of(audience).tried.wait()

    async def run(self) -> None:
        """Keep tokens for whatever the newest rules want, until cancelled."""
        async with asyncio.TaskGroup() as group:
            keeping: dict[_Key, asyncio.Task[None]] = {}
            async for rules in self._rules.follow():
                audiences = {route.serverless_audience for route in rules.routes.values()} - {""}
                wanted = dict.fromkeys((rules.google_account, audience) for audience in sorted(audiences))
                for key in keeping.keys() - wanted.keys():
                    keeping.pop(key).cancel()
                self._kept = {key: self._kept.get(key) or _Kept() for key in wanted}
                for key in wanted:
                    if key not in keeping:
                        keeping[key] = group.create_task(self._keep(key, self._kept[key]))
                self._report()

    def _of(self, audience: str) -> _Kept:
        """By whom the newest rules name: a token of the account before is never sent again."""
        return self._kept.setdefault((self._rules.value.google_account, audience), _Kept())

    async def _keep(self, key: _Key, kept: _Kept) -> None:
        account, audience = key
        backoff = patient()
        while True:
            try:
                async with self._fetches:
                    token = await self._fetch(audience, account)
            except ProviderUnavailable as error:
                wait, failure = backoff.next(), str(error)
                if failure != kept.failure:
                    log.warning("no identity token for a serverless upstream", audience=audience, reason=failure)
                kept.failure = failure
            else:
                kept.token, kept.until, kept.failure = token, self._until(token), ""
                backoff.reset()
                wait = KEPT_SECONDS
            kept.tried.set()
            self._report()
            await self._clock.sleep(wait)

    def _until(self, token: str) -> float:
        """When a token is used no more, by what it says itself, which Google has signed and the upstream verifies."""
        now = self._clock.now()
        latest = (now + LIFETIME - MARGIN).timestamp()
        try:
            payload = token.split(".")[1]
            expires = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"]
            return min(latest, float(expires) - MARGIN.total_seconds())
        except (ValueError, TypeError, KeyError, IndexError, RecursionError):
            return (now + timedelta(seconds=KEPT_SECONDS)).timestamp()

    def _report(self) -> None:
        """In the health checks as soon as any route wants a token."""
        failures = {audience: kept.failure for (_, audience), kept in self._kept.items() if kept.failure}
        if failures:
            self._health.failed(Check.SERVERLESS, "\n".join(f"{name}: {why}" for name, why in failures.items()))
        elif self._kept or Check.SERVERLESS in self._health.reports:
            self._health.running(Check.SERVERLESS)

    async def _fetch(self, audience: str, account: GoogleAccount | None) -> str:
        if account is None:
            url = f"{self._metadata}{IDENTITY}{quote(audience, safe='')}"
            answer = await self._read("GET", url, headers={"Metadata-Flavor": "Google"})
            return _token(answer.strip(), url)
        if not account.key:
            raise ProviderUnavailable("the configured service account cannot be used")
        assertion = await asyncio.to_thread(_assertion, account, audience, int(self._clock.now().timestamp()))
        form = {"grant_type": GRANT, "assertion": assertion}
        answer = await self._read("POST", account.token_url, data=form)
        try:
            told = json.loads(answer)
        except (ValueError, RecursionError):
            told = None
        return _token(told.get("id_token") if isinstance(told, dict) else None, account.token_url)

    async def _read(self, method: str, url: str, **options: Any) -> str:
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        try:
            async with self._http.request(method, url, timeout=timeout, allow_redirects=False, **options) as response:
                if response.status != 200:
                    raise ProviderUnavailable(f"{_shown(url)} answered {response.status}")
                return (await _at_most(response, MAX_BYTES, url)).decode()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ProviderUnavailable(f"cannot reach {_shown(url)}: {type(error).__name__}") from error
        except UnicodeDecodeError:
            raise ProviderUnavailable(f"{_shown(url)} did not answer with text") from None


async def _at_most(response: aiohttp.ClientResponse, limit: int, url: str) -> bytes:
    content = b""
    async for chunk in response.content.iter_chunked(limit):
        content += chunk
        if len(content) > limit:
            raise ProviderUnavailable(f"{_shown(url)} answered with more than {limit} bytes")
    return content


def _assertion(account: GoogleAccount, audience: str, now: int) -> str:
    """What Google gives an identity token for (RFC 7523, with Google's `target_audience`)."""
    claims = {
        "iss": account.email,
        "sub": account.email,
        "aud": account.token_url,
        "iat": now,
        "exp": now + int(LIFETIME.total_seconds()),
        "target_audience": audience,
    }
    return read_signer(account.key.encode(), kid=account.key_id).sign(claims)


def _token(answer: object, url: str) -> str:
    """Nothing but a JWT's characters go into a header."""
    if not isinstance(answer, str) or answer.count(".") != 2 or not answer.isascii() or not answer.isprintable():
        raise ProviderUnavailable(f"{_shown(url)} did not answer with a token")
    if " " in answer:
        raise ProviderUnavailable(f"{_shown(url)} did not answer with a token")
    return answer


def _shown(url: str) -> str:
    return url.partition("?")[0]
