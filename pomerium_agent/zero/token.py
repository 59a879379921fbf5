"""The bearer that opens every other door, exchanged for the cluster token and remembered (zero link 5)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from pomerium_agent.errors import AgentError
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.settings import Secret

# How much longer than now a remembered bearer must live to be used once more (Z-12).
API_MIN_TTL = timedelta(minutes=5)
TELEMETRY_MIN_TTL = timedelta(minutes=5)
CONNECT_MIN_TTL = timedelta(minutes=55)  # the server ends the stream when the bearer expires


@dataclass(frozen=True, slots=True)
class Bearer:
    """What an exchange gave: a secret, and how long it is good for from the moment we asked."""

    secret: Secret
    expires_in: timedelta


class TokenCache:
    """One per process, shared by the cluster API, connect and telemetry.

    However many callers come at once, one exchange is under way; the others wait for it, each as long as it
    likes. A failed exchange is remembered by nobody: whoever waited asks again.
    """

    def __init__(self, exchange: Callable[[], Awaitable[Bearer]], clock: Clock) -> None:
        self._exchange = exchange
        self._clock = clock
        self._lock = asyncio.Lock()
        self._bearer: Secret | None = None
        self._expires = 0.0
        self._era = 0  # grows with every other cluster token

    async def bearer(self, min_ttl: timedelta) -> Secret:
        """A bearer that lives longer than `min_ttl`, or a fresh one; raises what the exchange raises."""
        seen = self._bearer
        if (usable := self._usable(min_ttl)) is not None:
            return usable
        async with self._lock:
            if self._bearer is not None and self._bearer is not seen:
                return self._bearer  # exchanged while we waited: as fresh as one can be
            while True:
                era, asked_at = self._era, self._clock.monotonic()
                try:
                    fresh = await self._exchange()
                except AgentError:
                    if era == self._era:
                        raise
                    continue  # it was about the cluster token before
                if era == self._era:
                    self._bearer, self._expires = fresh.secret, asked_at + fresh.expires_in.total_seconds()
                    return fresh.secret

    def reset(self, failed: Secret) -> None:
        """Forget `failed`, which the other side did not accept; a bearer that has replaced it stays (Z-11, W2)."""
        if self._bearer == failed:
            self._bearer = None

    def begin_anew(self) -> None:
        """There is another cluster token: forget what came of the one before, also what is still under way."""
        self._bearer = None
        self._era += 1

    @property
    def seconds_left(self) -> float | None:
        """How long the remembered bearer is good for, below zero when it has expired; None without one."""
        return None if self._bearer is None else self._expires - self._clock.monotonic()

    def _usable(self, min_ttl: timedelta) -> Secret | None:
        if self._bearer is None or self._expires <= self._clock.monotonic() + min_ttl.total_seconds():
            return None
        return self._bearer
