"""The public key of the hosted service, which logs people in and seals what it says of them (authenticate 3.5, N-11).

It is fetched over verified TLS, kept for a minute at most, and used on for an hour while the service does not answer.
Where the configuration names the keys that the service may have, no other is ever used.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import aiohttp
import structlog

from pomerium_agent.authenticate.site import Site
from pomerium_agent.config.login import Flow, Login
from pomerium_agent.errors import HandoffRejected, ProviderUnavailable
from pomerium_agent.handoff.box import decode
from pomerium_agent.handoff.hpke import KEY_BYTES
from pomerium_agent.idp.fetch import ask
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.supervisor import supervise

log = structlog.get_logger(__name__)

PATH = "/.well-known/pomerium/hpke-public-key"
FRESH_SECONDS = 60.0
MIN_FRESH_SECONDS = 5.0  # also between two questions because of a key that we do not know
STALE_SECONDS = 3600.0


class ServerKey:
    """The key of the service that the configuration names. `latest` is None while there is none to be used."""

    def __init__(self, site: Latest[Site], http: aiohttp.ClientSession, clock: Clock, health: Health) -> None:
        self.latest: Latest[bytes | None] = Latest(None)
        self._site = site
        self._http = http
        self._clock = clock
        self._health = health
        self._of: tuple[str, tuple[str, ...]] | None = None  # whose key `latest` is: URL and pins
        self._fetched_at = 0.0
        self._fresh_until = 0.0
        self._tried_at: float | None = None
        self._failure = ""
        self._lock = asyncio.Lock()

    async def current(self) -> bytes:
        """The key, at most a minute old while the service answers. Raises ProviderUnavailable."""
        async with self._lock:  # of many who ask at once, one fetches
            self._check_whose()
            if self._clock.monotonic() >= self._fresh_until and not self._just_tried():
                await self._fetch()
            key = self.latest.value
            if key is None:
                raise ProviderUnavailable(self._failure or "the key of the login service is not known yet")
            return key

    async def is_of(self, sender: bytes) -> bool:
        """Whether `sender` is the service's key; a key that it just began to use counts too (N-14)."""
        if hmac.compare_digest(sender, await self.current()):
            return True
        async with self._lock:
            if self._just_tried():
                return False
            await self._fetch()
            key = self.latest.value
        return key is not None and hmac.compare_digest(sender, key)

    async def keep(self) -> None:
        """Have a key ready for those who cannot wait for it, as long as the hosted service logs people in."""
        async with asyncio.TaskGroup() as group:
            refreshing: asyncio.Task[None] | None = None
            async with aclosing(self._site.follow()) as sites:
                async for site in sites:
                    wanted = _whose(site.login) if site.login.flow is Flow.STATELESS and site.shared_key else None
                    if wanted == self._of and refreshing is not None:
                        continue
                    if refreshing is not None:
                        refreshing.cancel()
                        refreshing = None
                    if wanted is None:
                        self._report("")
                    else:
                        refreshing = group.create_task(self._refresh(), name="login-service-key")

    async def _refresh(self) -> None:
        backoff = Backoff(cap=FRESH_SECONDS)
        while True:
            try:
                await self.current()
            except ProviderUnavailable as error:
                wait = max(backoff.next(), MIN_FRESH_SECONDS)
                log.warning("the key of the login service cannot be had", reason=str(error), retry_in=wait)
            else:
                backoff.reset()
                wait = max(self._fresh_until - self._clock.monotonic(), MIN_FRESH_SECONDS)
            await self._clock.sleep(wait)

    def _check_whose(self) -> None:
        """Forget the key when another service is configured, or other keys are allowed."""
        whose = _whose(self._site.value.login)
        if self._of != whose:
            self._of, self._fresh_until, self._tried_at = whose, 0.0, None
            self.latest.set(None)

    def _just_tried(self) -> bool:
        return self._tried_at is not None and self._clock.monotonic() - self._tried_at < MIN_FRESH_SECONDS

    async def _fetch(self) -> None:
        login = self._site.value.login
        try:
            answer = await ask(
                self._http, f"{login.internal_url}{PATH}", headers={"Accept": "application/octet-stream"}
            )
            if answer.status != 200 or len(answer.body) != KEY_BYTES:
                raise ProviderUnavailable(f"{answer.url} did not answer with a public key ({answer.status})")
            if login.server_keys and not any(_same(answer.body, pin) for pin in login.server_keys):
                log.error("the login service has a key that the configuration does not allow", url=answer.url)
                self.latest.set(None)  # not even the old one: somebody may be in the middle
                raise ProviderUnavailable(f"{answer.url} answered with a key that is not among the allowed ones")
        except ProviderUnavailable as error:
            self._failure = str(error)
            self._report(f"the key of the login service cannot be had: {error}")
            if self._clock.monotonic() - self._fetched_at > STALE_SECONDS:
                self.latest.set(None)
        else:
            self._failure = ""
            self._report("")
            self._fetched_at = self._clock.monotonic()
            age = FRESH_SECONDS if answer.max_age is None else min(answer.max_age, FRESH_SECONDS)
            self._fresh_until = self._fetched_at + max(age, MIN_FRESH_SECONDS)
            if answer.body != self.latest.value:
                self.latest.set(answer.body)
        self._tried_at = self._clock.monotonic()

    def _report(self, error: str) -> None:
        """At once, though the key from before is good for another while: somebody should look into it."""
        if error:
            self._health.failed(Check.AUTHENTICATE, error)
        else:
            self._health.running(Check.AUTHENTICATE)


@asynccontextmanager
async def open_server_key(
    site: Latest[Site], http: aiohttp.ClientSession, clock: Clock, health: Health
) -> AsyncIterator[ServerKey]:
    """Keep the key at hand while the block runs."""
    key = ServerKey(site, http, clock, health)
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(supervise("login service key", key.keep, clock=clock, backoff=Backoff()))
        try:
            yield key
        finally:
            keeping.cancel()


def _whose(login: Login) -> tuple[str, tuple[str, ...]]:
    return login.internal_url, login.server_keys


def _same(key: bytes, pin: str) -> bool:
    try:
        return hmac.compare_digest(decode(pin), key)
    except HandoffRejected:
        return False
