"""The one place that retries: keeps a service running until it is cancelled or fails for good."""

from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import structlog

from pomerium_agent.errors import Retryable
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.clock import Clock

log = structlog.get_logger(__name__)

T = TypeVar("T")
SETTLED_AFTER = 60.0  # seconds of life after which the next failure counts as a first one


async def supervise(name: str, run: Callable[[], Awaitable[None]], *, clock: Clock, backoff: Backoff) -> NoReturn:
    """Keep `run` alive for as long as the agent lives.

    What may pass is retried. Everything else leaves here, and the TaskGroup above stops the siblings.
    Cancellation is never caught.
    """
    while True:
        began = clock.monotonic()
        try:
            await run()
        except Retryable as error:
            if clock.monotonic() - began > SETTLED_AFTER:
                backoff.reset()
            wait = backoff.next(at_least=error.retry_after)
            log.warning("part down", part=name, reason=str(error), retry_in=round(wait, 2))
            await clock.sleep(wait)
        else:
            raise RuntimeError(f"{name} returned; services run until cancelled")


async def until_done(name: str, step: Callable[[], Awaitable[T]], *, clock: Clock, backoff: Backoff) -> T:
    """Run a step that ends, again and again until it does; only `Retryable` is retried."""
    while True:
        try:
            return await step()
        except Retryable as error:
            wait = backoff.next(at_least=error.retry_after)
            log.warning("step failed", step=name, reason=str(error), retry_in=round(wait, 2))
            await clock.sleep(wait)
