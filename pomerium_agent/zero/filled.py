"""Knowing, without the lease, that the databroker holds a configuration: from what whoever had it wrote there.

A replica that shares its store with others, or has one that outlives it, may find the bundles there before it ever
brings one in. Until they are there, an empty databroker says nothing about the configuration.
"""

import asyncio
from contextlib import aclosing

import structlog

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.bundle_entry import CACHE_ENTRY_TYPE, entry_from_record
from pomerium_agent.databroker.follow import Reset, follow
from pomerium_agent.errors import Refused, Retryable
from pomerium_agent.runtime.backoff import patient
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.supervisor import supervise
from pomerium_agent.runtime.waiting import first_of
from pomerium_agent.zero.api import ClusterApi

log = structlog.get_logger(__name__)

OTHERS_WITHIN = 30.0  # seconds that the lease lasts: whoever is filling has brought the other bundles by then, or died


async def watch_filled(filled: Latest[bool], api: ClusterApi, backend: Backend, clock: Clock) -> None:
    """Set `filled` once the store has every bundle that the control plane lists; return then.

    When the list cannot be had, what is there is the last that was known, and that is served. So it is when some
    bundle does not come: it may be empty or unreadable, which leaves no entry.
    """
    known: Latest[frozenset[str]] = Latest(frozenset())
    async with asyncio.TaskGroup() as group:
        service = supervise("bundle entries", lambda: _follow_entries(known, backend), clock=clock, backoff=patient())
        following = group.create_task(service)
        await _until(known, frozenset())
        try:
            listed = frozenset(await api.bundle_ids())
        except (Retryable, Refused) as error:
            log.info("serving what the databroker holds, the list of bundles cannot be had", reason=str(error))
        else:
            await first_of(_until(known, listed), clock.sleep(OTHERS_WITHIN))
        filled.set(True)
        following.cancel()


async def _until(known: Latest[frozenset[str]], wanted: frozenset[str]) -> None:
    """Return once there are bundles, and all of `wanted` among them."""
    async with aclosing(known.follow()) as sets:
        async for ids in sets:
            if ids and ids >= wanted:
                return


async def _follow_entries(known: Latest[frozenset[str]], backend: Backend) -> None:
    async with aclosing(follow(backend, CACHE_ENTRY_TYPE)) as changes:
        async for change in changes:
            if isinstance(change, Reset):
                known.set(frozenset(record.id for record in change.records if entry_from_record(record)))
            elif change.record.deleted or entry_from_record(change.record) is None:
                known.set(known.value - {change.record.id})
            else:
                known.set(known.value | {change.record.id})
