"""The cluster token in use, and how another one takes its place while all goes on (zero link 7, 18.5)."""

import asyncio
import hashlib

import structlog

from pomerium_agent.errors import Refused, Retryable, SettingsError
from pomerium_agent.runtime.backoff import patient
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.waiting import first_of
from pomerium_agent.settings import Secret, TokenSource
from pomerium_agent.zero.api import ClusterApi
from pomerium_agent.zero.nudge import Flag
from pomerium_agent.zero.secrets import DerivedSecrets, derive_secrets

log = structlog.get_logger(__name__)

LOOK_EVERY = 5.0  # seconds between two looks at the source; what it holds is compared, however it came there


class ClusterToken:
    """Follows the source of the token. `current` and `secrets` change together, `secrets` first.

    Another token is taken up only after the control plane has accepted it, so that a wrong one harms nobody. Only when
    the one in use was refused, it is taken up untried where the control plane cannot be asked.
    """

    def __init__(
        self, token: Secret, source: TokenSource, api: ClusterApi, *, health: Health, clock: Clock, hangup: Flag
    ) -> None:
        self.current: Latest[Secret] = Latest(token)
        self.secrets: Latest[DerivedSecrets] = Latest(derive_secrets(token))
        self.source = source
        self._api = api
        self._health = health
        self._clock = clock
        self._hangup = hangup
        self._looking = asyncio.Lock()
        self._turned_down: Secret | None = None  # tried and refused; not worth another try until somebody says so
        self._pauses = patient()
        self._pause = 0.0

    @property
    def fingerprint(self) -> str:
        """By what the token in use is known; consoles of ours call it the same."""
        return fingerprint(self.current.value)

    async def run(self) -> None:
        """Look every few seconds, and at once when told to (SIGHUP), until cancelled."""
        self._well()
        while True:
            if self.source.rereadable:
                await first_of(self._hangup.wait(), self._clock.sleep(max(LOOK_EVERY, self._pause)))
            else:
                await self._hangup.wait()
            told = self._hangup.take()
            if self.source.rereadable:
                await self._look(told=told)
            else:
                log.warning(
                    "the cluster token is not read again: a running process keeps its environment; restart it",
                    source=self.source.name,
                )

    async def replaced(self, refused: Secret) -> bool:
        """Whether there is another token than `refused`, which the control plane does not take; looks once more."""
        if self.current.value == refused and self.source.rereadable:
            await self._look(told=True, needed=refused)
        return self.current.value != refused

    async def _look(self, *, told: bool, needed: Secret | None = None) -> None:
        async with self._looking:
            if needed is not None and self.current.value != needed:
                return  # somebody else has looked meanwhile
            try:
                found = await asyncio.to_thread(self.source.read)
            except SettingsError as error:
                self._health.failed(Check.ZERO_TOKEN, f"the token in use stays: {error}")
                return
            if found == self.current.value:
                self._well()
            elif told or found != self._turned_down:
                await self._try(found, needed=needed is not None)

    async def _try(self, found: Secret, *, needed: bool) -> None:
        name = fingerprint(found)
        self._pause = 0.0
        try:
            await self._api.try_token(found)
        except Refused as error:
            self._turned_down = found
            self._health.failed(Check.ZERO_TOKEN, f"the new token {name} is refused, the one in use stays: {error}")
            return
        except Retryable as error:
            if not needed:
                self._pause = self._pauses.next(at_least=error.retry_after)
                self._health.failed(
                    Check.ZERO_TOKEN, f"the new token {name} could not be tried yet, the one in use stays: {error}"
                )
                return
        self._pauses.reset()
        log.info("another cluster token", before=self.fingerprint, now=name, source=self.source.name)
        self._api.use(found)
        self._turned_down = None
        self.secrets.set(derive_secrets(found))
        self.current.set(found)
        self._well()

    def _well(self) -> None:
        self._health.running(Check.ZERO_TOKEN, fingerprint=self.fingerprint, source=self.source.name)


def fingerprint(token: str) -> str:
    """Eight digits of its hash, by which people tell tokens apart; a token cannot be found from them."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()[:8]
