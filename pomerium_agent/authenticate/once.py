"""What a browser brings once and never again (G-3, N-15)."""

import asyncio
import hashlib
import uuid
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.errors import DatabrokerUnavailable, HandoffRejected, HandoffUsed
from pomerium_agent.handoff.signed import SKEW_SECONDS

SECONDS = 5.0
LONGEST = timedelta(minutes=15)  # that anything may be good for: what is remembered must be bounded


class Used(NamedTuple):
    """What was taken, and by whom."""

    name: str
    holder: str


async def use_once(backend: Backend, kind: str, payload: bytes, *, now: datetime, until: datetime) -> Used:
    """Take `payload`, on this replica and on all that share the store; only the first one ever gets it.

    A lease that nobody gives back is just that: the store grants it to one of many who ask at once, and forgets it
    when `until` has passed. Raises HandoffUsed, and DatabrokerUnavailable when nobody can tell.
    """
    if until - now > LONGEST:
        raise HandoffRejected("it claims to be good for much longer than any login takes")
    ttl = max(until - now, timedelta()) + timedelta(seconds=SKEW_SECONDS + 1)
    used = Used(f"login/{kind}/{hashlib.sha256(payload).hexdigest()}", str(uuid.uuid4()))
    try:
        async with asyncio.timeout(SECONDS):
            first = await backend.lease(used.name, used.holder, ttl)
    except TimeoutError:
        raise DatabrokerUnavailable(f"the store did not answer within {SECONDS:g} s") from None
    if not first:
        raise HandoffUsed("it was used before")
    return used


async def give_back(backend: Backend, used: Used) -> None:
    """It did not serve its purpose, and whoever sent it may send it again. If the store is away, that is all."""
    with suppress(DatabrokerUnavailable, TimeoutError):
        async with asyncio.timeout(SECONDS):
            await backend.release(used.name, used.holder)
