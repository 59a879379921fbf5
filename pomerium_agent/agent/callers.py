"""Who calls without being a person: service accounts, and what the directory says of the users they act for."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

from pomerium_agent.databroker import Backend
from pomerium_agent.databroker.follow import Reset, follow
from pomerium_agent.errors import RecordNotFound
from pomerium_agent.pb.pomerium import user_pb2
from pomerium_agent.records import Record, pack, unpack
from pomerium_agent.runtime.backoff import patient
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.supervisor import supervise
from pomerium_agent.sessions.entries import DIRECTORY_GROUP, DIRECTORY_USER, SERVICE_ACCOUNT, decode_directory_user

SETTLE_SECONDS = 0.5  # a burst of changes is gathered at its beginning and at its end

Callers = tuple[Record, ...] | None  # None: not delivered yet


async def follow_callers(backend: Backend, callers: Latest[Callers], clock: Clock) -> None:
    """Keep in `callers` the records behind every service account that can be read, until cancelled."""
    callings = _Callers(backend, callers, clock)
    services: dict[str, Callable[[], Awaitable[None]]] = {
        "accounts": callings.follow_accounts,
        "users": partial(callings.follow_directory, DIRECTORY_USER),
        "groups": partial(callings.follow_directory, DIRECTORY_GROUP),
        "gather": callings.gather,
    }
    async with asyncio.TaskGroup() as group:
        for name, service in services.items():
            group.create_task(supervise(f"callers {name}", service, clock=clock, backoff=patient()))


@dataclass(slots=True)
class _Callers:
    """The accounts as a copy, and of a directory, which may be large, only which records of it were looked at."""

    backend: Backend
    callers: Latest[Callers]
    clock: Clock
    accounts: dict[str, tuple[Record, str]] = field(default_factory=dict)  # by id, with the user it acts for
    delivered: asyncio.Event = field(default_factory=asyncio.Event)
    looked_at: set[tuple[str, str]] = field(default_factory=set)
    dirty: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow_accounts(self) -> None:
        async with aclosing(follow(self.backend, SERVICE_ACCOUNT)) as changes:
            async for change in changes:
                if isinstance(change, Reset):
                    self.accounts = {}
                    self._take(change.records)
                    self.delivered.set()
                else:
                    self._take((change.record,))
                self.dirty.set()

    async def follow_directory(self, type: str) -> None:
        async with aclosing(follow(self.backend, type)) as changes:
            async for change in changes:
                if isinstance(change, Reset) or (type, change.record.id) in self.looked_at:
                    self.dirty.set()

    async def gather(self) -> None:
        await self.delivered.wait()
        self.dirty.set()  # also when we begin again
        while True:
            await self.dirty.wait()
            self.dirty.clear()
            gathered = await self._gathered()
            if gathered != self.callers.value:
                self.callers.set(gathered)
            await self.clock.sleep(SETTLE_SECONDS)

    def _take(self, records: Iterable[Record]) -> None:
        for record in records:
            account = None if record.deleted else unpack(record.data, user_pb2.ServiceAccount)
            if account is None:
                self.accounts.pop(record.id, None)
                continue
            # Not of interest, and every ten seconds another while it is used.
            account.ClearField("accessed_at")
            self.accounts[record.id] = _plain(replace(record, data=pack(account))), account.user_id

    async def _gathered(self) -> tuple[Record, ...]:
        """In order and without versions, so that what is written again as it was is no change."""
        accounts = tuple(self.accounts.values())
        self.looked_at = set()
        users = await self._find(DIRECTORY_USER, {user_id for _, user_id in accounts})
        entries = [entry for user in users if (entry := decode_directory_user(user)) is not None]
        groups = await self._find(DIRECTORY_GROUP, {id for entry in entries for id in entry.group_ids})
        found = (*(record for record, _ in accounts), *users, *groups)
        return tuple(sorted(found, key=lambda record: (record.type, record.id)))

    async def _find(self, type: str, ids: set[str]) -> list[Record]:
        self.looked_at.update((type, id) for id in ids)
        found = []
        for id in ids - {""}:
            try:
                found.append(_plain(await self.backend.get(type, id)))
            except RecordNotFound:
                continue
        return found


def _plain(record: Record) -> Record:
    return Record(type=record.type, id=record.id, data=record.data)
