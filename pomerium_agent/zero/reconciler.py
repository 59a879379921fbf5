"""The job that keeps the databroker equal to the bundles of this cluster; runs at one replica (zero link 11, 12)."""

from collections.abc import Iterable, Sequence

import structlog

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.bundle_entry import (
    CACHE_ENTRY_TYPE,
    CacheEntry,
    entry_from_record,
    entry_to_record,
)
from pomerium_agent.errors import ConfigRejected, RecordNotFound, Retryable
from pomerium_agent.records import Record
from pomerium_agent.runtime.backoff import Backoff, loop
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Health, bundle_check
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.spans import Spans
from pomerium_agent.zero.api import ClusterApi
from pomerium_agent.zero.bundles import Downloaded, Downloader, Unchanged
from pomerium_agent.zero.nudge import Schedule
from pomerium_agent.zero.reconcile import Difference, difference, put_requests, types_of
from pomerium_agent.zero.traced import UNTRACED, Step, trace

log = structlog.get_logger(__name__)


class _SomeFailed(Retryable):
    """Some bundles could not be brought in; the others are."""


class Reconciler:
    """Lists the bundles, fetches each, and applies it whole.

    A bundle that cannot be fetched or read changes nothing, is reported, and does not keep the others waiting
    (Z-43). Refused leaves; all else is tried again. `filled` becomes true once the databroker holds every bundle that
    is listed, new or as it was before: from then on an empty databroker is an empty configuration. A bundle that cannot
    be read does not count, as waiting does not mend it; unless there is nothing else. `missed` becomes true when the
    first try has brought less than everything.
    """

    def __init__(
        self,
        api: ClusterApi,
        downloader: Downloader,
        backend: Backend,
        *,
        health: Health,
        clock: Clock,
        filled: Latest[bool] | None = None,
        missed: Latest[bool] | None = None,
        spans: Spans | None = None,
    ) -> None:
        self._api = api
        self._downloader = downloader
        self._backend = backend
        self._health = health
        self._clock = clock
        self._filled = filled or Latest(False)
        self._missed = missed or Latest(False)
        self._spans = spans
        self._listed: tuple[str, ...] = ()
        self._pending: tuple[str, ...] = ()
        # Metadata of bundles, and the ETag they came with, to be reported again after a 304 (W10). While another
        # replica had the lease, the bundle in force may have become another one.
        self._metadata: dict[str, tuple[str, dict[str, str]]] = {}
        # Bundles without records have no valid cache entry in the databroker, so they are remembered here (W11).
        self._empty: dict[str, CacheEntry] = {}
        # Bundles of which only a part was applied: what we have is not what their cache entry says.
        self._unfinished: set[str] = set()
        self._holds_some = False  # at least one bundle is in

    async def run(self, schedule: Schedule, backoff: Backoff | None = None) -> None:
        """Sync everything at once, whatever the state of the connection (Z-32), then whenever it is due."""
        backoff = backoff or loop()
        while True:
            await self._full_sync(schedule, backoff)
            await schedule.due()

    async def _full_sync(self, schedule: Schedule, backoff: Backoff) -> None:
        """Until every listed bundle is in. A nudge while waiting means: list again, and try at once."""
        backoff.reset()
        listed = False
        while True:
            try:
                with trace(self._spans, "sync") as whole:
                    if not listed:
                        schedule.begin()
                        with whole.part("list bundles") as step:
                            self._listed = self._pending = await self._api.bundle_ids()
                            step.tell({"pomerium.bundles": len(self._listed)})
                        listed = True
                        if not self._listed:  # which is an answer, and removes what there was (W11)
                            log.warning(
                                "the control plane lists no bundles for this cluster: there is nothing to serve"
                            )
                    await self._sync_pending(whole)
                    await self._remove_vanished(set(self._listed))  # last: another bundle may hold the same by now
            except Retryable as error:
                if not self._missed.value:
                    self._missed.set(True)
                wait = backoff.next(at_least=error.retry_after)
                log.warning("bundles not in sync", reason=str(error), retry_in=round(wait, 2))
                if await schedule.due_within(wait):
                    listed = False
                    backoff.reset()
            else:
                return

    async def _sync_pending(self, whole: Step) -> None:
        """Try each pending bundle once; those that failed stay pending, and raise at the end."""
        failed: list[str] = []
        missing = False
        retry_after = 0.0
        for bundle_id in self._pending:
            try:
                with whole.part("bundle") as step:
                    await self.sync(bundle_id, step)
            except (Retryable, ConfigRejected) as error:
                failed.append(bundle_id)
                self._health.failed(bundle_check(bundle_id), str(error))
                if isinstance(error, Retryable):
                    retry_after = max(retry_after, error.retry_after)
                    missing = not await self._is_there(bundle_id) or missing
            else:
                self._holds_some = True
        if not missing and (self._holds_some or not self._listed) and not self._filled.value:
            self._filled.set(True)
        self._pending = tuple(failed)
        if failed:
            raise _SomeFailed(f"failed: {', '.join(failed)}", retry_after)

    async def _is_there(self, bundle_id: str) -> bool:
        """Whether the databroker has this bundle as it was before."""
        try:
            there = bundle_id not in self._unfinished and await self._entry(bundle_id) is not None
        except Retryable:
            return False
        self._holds_some = self._holds_some or there
        return there

    async def sync(self, bundle_id: str, step: Step = UNTRACED) -> None:
        """One bundle: fetch what is new, apply it, and remember it only then (Z-40)."""
        step.tell({"pomerium.bundle_id": bundle_id})
        entry = await self._entry(bundle_id)
        with step.part("download"):
            answer = await self._downloader.fetch(bundle_id, None if bundle_id in self._unfinished else entry)
        step.tell({"pomerium.bundle_changed": isinstance(answer, Downloaded)})
        if isinstance(answer, Unchanged):
            assert entry is not None  # noqa: S101  # only who has one is told that it did not change
            etag, metadata = entry.etag, await self._still_in_force(bundle_id, entry, answer)
        else:
            step.tell({"pomerium.records": len(answer.records)})
            with step.part("apply") as applying:
                applying.tell(await self._apply(bundle_id, entry, answer))
            etag, metadata = answer.etag, dict(answer.metadata)
        self._metadata[bundle_id] = etag, metadata
        self._health.running(bundle_check(bundle_id), **metadata)  # Z-44

    async def _still_in_force(self, bundle_id: str, entry: CacheEntry, answer: Unchanged) -> dict[str, str]:
        """What to report of a bundle that did not change (W10); its records stay untouched (Z-34, Z-35)."""
        if answer.last_modified != entry.last_modified:
            newer = CacheEntry(etag=entry.etag, last_modified=answer.last_modified, record_types=entry.record_types)
            await self._remember(bundle_id, newer)
            return dict(answer.metadata or {})
        etag, known = self._metadata.get(bundle_id, ("", {}))
        if etag == entry.etag:
            return known
        if answer.metadata is not None:
            return dict(answer.metadata)
        try:  # applied before this process began: ask, so that the control plane learns what is in force here
            return dict((await self._downloader.describe(bundle_id, entry)).metadata or {})
        except Retryable as error:
            log.info("bundle metadata unknown", bundle=bundle_id, reason=str(error))
            return {}

    async def _apply(self, bundle_id: str, entry: CacheEntry | None, bundle: Downloaded) -> dict[str, int]:
        """How much of what was done."""
        types = types_of(bundle.records)
        if CACHE_ENTRY_TYPE in types:
            raise ConfigRejected(f"the bundle holds records of type {CACHE_ENTRY_TYPE}, which only replicas write")
        owned = set(types) | set(entry.record_types if entry else ())
        change = difference(await self._current(owned), bundle.records)
        self._unfinished.add(bundle_id)
        await self._write(change)
        newest = CacheEntry(etag=bundle.etag, last_modified=bundle.last_modified, record_types=types)
        await self._remember(bundle_id, newest)
        self._unfinished.discard(bundle_id)
        log.info("bundle applied", bundle=bundle_id, records=len(bundle.records), **change.counts)
        return {f"pomerium.records_{what}": count for what, count in change.counts.items()}

    async def _entry(self, bundle_id: str) -> CacheEntry | None:
        """What we have of the bundle, read anew each time: another replica may have brought it in."""
        try:
            entry = entry_from_record(await self._backend.get(CACHE_ENTRY_TYPE, bundle_id))
        except RecordNotFound:
            entry = None
        return entry or self._empty.get(bundle_id)

    async def _remember(self, bundle_id: str, entry: CacheEntry) -> None:
        record = entry_to_record(bundle_id, entry)
        if entry.record_types:
            self._empty.pop(bundle_id, None)
            await self._backend.put([record])
        else:  # the reference could not read such an entry, and a stale one would hide a change back
            await self._backend.put([record.as_deleted(self._clock.now())])
            self._empty[bundle_id] = entry

    async def _remove_vanished(self, listed: set[str]) -> None:
        """Delete what bundles that are no longer listed left behind, found by their cache entries (W11).

        A list without any bundle is what a control plane in trouble would send: then everything stays (fail static).
        """
        if not listed:
            log.warning("the control plane lists no bundle at all; what is in force stays")
            return
        _, records = await self._backend.latest(CACHE_ENTRY_TYPE)
        vanished = [record for record in records if record.id not in listed]
        kept = set(_types(record for record in records if record.id in listed))
        for record in vanished:
            orphaned = [type for type in _types([record]) if type not in kept]
            await self._write(Difference(deletions=tuple(await self._current(orphaned))))
            await self._backend.put([record.as_deleted(self._clock.now())])
            self._health.terminating(bundle_check(record.id))
            log.info("bundle removed", bundle=record.id)
        for known in (self._metadata, self._empty):
            for bundle_id in known.keys() - listed:
                del known[bundle_id]

    async def _current(self, types: Iterable[str]) -> list[Record]:
        found: list[Record] = []
        for type in sorted(types):
            found += (await self._backend.latest(type))[1]
        return found

    async def _write(self, change: Difference) -> None:
        for batch in put_requests(change, self._clock.now()):
            await self._backend.put(batch)


def _types(entries: Iterable[Record]) -> Sequence[str]:
    """The record types that the cache entries in `entries` name."""
    return [type for record in entries if (entry := entry_from_record(record)) for type in entry.record_types]
