"""What a browser brings once and never again (G-3, N-15)."""

import asyncio
import hashlib
import uuid
from datetime import datetime, timedelta

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.errors import DatabrokerUnavailable, HandoffRejected, HandoffUsed
from pomerium_agent.handoff.signed import SKEW_SECONDS

SECONDS = 5.0
LONGEST = timedelta(minutes=15)  # that anything may be good for: what is remembered must be bounded


async def use_once(backend: Backend, kind: str, payload: bytes, *, now: datetime, until: datetime) -> None:
    """Take `payload`, on this replica and on all that share the store; only the first one ever gets it.

    A lease that nobody gives back is just that: the store grants it to one of many who ask at once, and forgets it
    when `until` has passed. Raises HandoffUsed, and DatabrokerUnavailable when nobody can tell.
    """
    if until - now > LONGEST:
        raise HandoffRejected("it claims to be good for much longer than any login takes")
    ttl = max(until - now, timedelta()) + timedelta(seconds=SKEW_SECONDS + 1)
    name = f"login/{kind}/{hashlib.sha256(payload).hexdigest()}"
    try:
        async with asyncio.timeout(SECONDS):
            first = await backend.lease(name, str(uuid.uuid4()), ttl)
    except TimeoutError:
        raise DatabrokerUnavailable(f"the store did not answer within {SECONDS:g} s") from None
    if not first:
        raise HandoffUsed("it was used before")
