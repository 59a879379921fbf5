"""When sessions were last used: noted without waiting, written in batches (authorize 21, A-31; authenticate N-39)."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import islice

import structlog

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.errors import DatabrokerUnavailable, InvalidRequest
from pomerium_agent.pb.pomerium import session_pb2, user_pb2
from pomerium_agent.records import Record, pack
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.sessions.entries import SERVICE_ACCOUNT, SESSION

log = structlog.get_logger(__name__)

CAPACITY = 1000
INTERVAL = 10.0  # seconds
BATCH = 100  # records in one write
WRITE_SECONDS = 3.0
FIELDS = ("accessed_at",)

Key = tuple[str, str]  # record type and id


class AccessTracker:
    """Remembers, until the next write, who was here. One note per session, bounded; what does not fit is counted."""

    def __init__(self, clock: Clock, *, capacity: int = CAPACITY) -> None:
        self._clock = clock
        self._capacity = capacity
        self._noted: dict[Key, datetime] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._noted)

    def note(self, session_id: str, *, service_account: bool = False, at: datetime | None = None) -> None:
        """Somebody used this session at that time, or just now. Never waits, never fails."""
        key = (SERVICE_ACCOUNT if service_account else SESSION, session_id)
        if key in self._noted or len(self._noted) < self._capacity:
            self._noted[key] = self._clock.now() if at is None else at
        else:
            self.dropped += 1

    async def write(self, backend: Backend) -> None:
        """Write what was noted; the first failure leaves the rest for the next time.

        A Patch touches nothing but `accessed_at`, and a record that is gone stays gone.
        """
        dropped, self.dropped = self.dropped, 0
        if dropped:
            log.warning("accesses not tracked", dropped=dropped, capacity=self._capacity)
        due = dict(self._noted)
        for type in (SESSION, SERVICE_ACCOUNT):
            of_type = iter([(key, at) for key, at in due.items() if key[0] == type])
            while batch := list(islice(of_type, BATCH)):
                if not await self._write(backend, batch):
                    return

    async def _write(self, backend: Backend, batch: Sequence[tuple[Key, datetime]]) -> bool:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await backend.patch([_accessed(key, at) for key, at in batch], FIELDS)
        except (DatabrokerUnavailable, TimeoutError) as error:
            log.warning("accesses not written", waiting=len(self._noted), reason=str(error) or "no answer in time")
            return False
        except InvalidRequest as error:  # one of these records is not what its type says; it would be so for ever
            log.warning("accesses not written", forgotten=len(batch), reason=str(error))
        for key, at in batch:
            if self._noted.get(key) == at:
                del self._noted[key]
        return True


@asynccontextmanager
async def track_access(
    backend: Backend, clock: Clock, *, interval: float = INTERVAL, capacity: int = CAPACITY
) -> AsyncIterator[AccessTracker]:
    """Write every ten seconds what was noted, while the block runs. What is not written by then is lost."""
    tracker = AccessTracker(clock, capacity=capacity)
    async with asyncio.TaskGroup() as group:
        writing = group.create_task(_writing(tracker, backend, clock, interval))
        try:
            yield tracker
        finally:
            writing.cancel()


async def _writing(tracker: AccessTracker, backend: Backend, clock: Clock, interval: float) -> None:
    while True:
        await clock.sleep(interval)
        await tracker.write(backend)


def _accessed(key: Key, at: datetime) -> Record:
    type, id = key
    message = session_pb2.Session(id=id) if type == SESSION else user_pb2.ServiceAccount(id=id)
    message.accessed_at.FromDatetime(at)
    return Record(type=type, id=id, data=pack(message))
