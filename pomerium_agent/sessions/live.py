"""Who is signed in, as this replica knows it: a live copy of the records about people, fed by the change log."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any

import structlog

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.follow import Reset, follow
from pomerium_agent.errors import DatabrokerUnavailable, RecordNotFound
from pomerium_agent.records import Cursor, Record
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Health
from pomerium_agent.runtime.supervisor import supervise
from pomerium_agent.sessions import entries
from pomerium_agent.sessions.confirmed import Confirmed
from pomerium_agent.sessions.entries import (
    AccountEntry,
    CredentialEntry,
    DirectoryGroupEntry,
    DirectoryUserEntry,
    EnrollmentEntry,
    SessionEntry,
    UserEntry,
)
from pomerium_agent.sessions.handle import Handle
from pomerium_agent.sessions.table import Generations, Table, caught_up

log = structlog.get_logger(__name__)

WAIT_SECONDS = 3.0  # how long a request may wait for the records behind its handle
MAX_READS = 24  # records that one request may read past the log

AnyTable = Table[Any]
Part = tuple[AnyTable, str]


@dataclass(slots=True)
class _Versioned:
    """What `version_of` remembers of one session."""

    generation: int  # of the copy, when the parts were looked at
    parts: tuple[int, ...]
    version: int


class Sessions:
    """This replica's copy of the records that say who somebody is; only `open_sessions` writes, reading never waits.

    Changes of the log are applied to the copy that requests read, so revocation takes effect when the change
    arrives ([D] of authorize 22, A-32). What has expired is still in here: see `identity.resolve`.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._generations = generations = Generations()
        self._sessions = Table(entries.SESSION, entries.decode_session, generations)
        self._accounts = Table(entries.SERVICE_ACCOUNT, entries.decode_account, generations)
        self._users = Table(entries.USER, entries.decode_user, generations)
        self._directory_users = Table(entries.DIRECTORY_USER, entries.decode_directory_user, generations)
        self._directory_groups = Table(entries.DIRECTORY_GROUP, entries.decode_directory_group, generations)
        self._credentials = Table(entries.CREDENTIAL, entries.decode_credential, generations)
        self._enrollments = Table(entries.ENROLLMENT, entries.decode_enrollment, generations)
        self._tables: tuple[AnyTable, ...] = (
            self._sessions,
            self._accounts,
            self._users,
            self._directory_users,
            self._directory_groups,
            self._credentials,
            self._enrollments,
        )
        # What a control plane says of people, and a replica may therefore remember for it.
        self._lendable: tuple[AnyTable, ...] = (self._accounts, self._directory_users, self._directory_groups)
        # What a login or an enrolment writes, and a handle's hint may therefore be about.
        self._written_by_login = (self._users, self._credentials, self._enrollments)
        self._complete: Cursor | None = None
        self._confirmed = Confirmed()
        self._versions: dict[str, _Versioned] = {}
        self._last_version = 0
        self._resets = 0
        self._moved = asyncio.Event()

    @property
    def loaded(self) -> bool:
        """Whether every type was delivered once; before that, an absent session means nothing."""
        return all(table.cursor is not None for table in self._tables)

    @property
    def reachable(self) -> bool:
        """Whether the store answered when the followers of sessions and service accounts last asked it."""
        return self._sessions.reachable and self._accounts.reachable

    @property
    def generation(self) -> int:
        """Grows with every change that matters to anybody."""
        return self._generations.last

    def __len__(self) -> int:
        return len(self._sessions.rows)

    @property
    def all(self) -> Mapping[str, SessionEntry]:
        """Every session by its id; not to be kept over an await, since it goes on changing."""
        return MappingProxyType(self._sessions.rows)

    def session(self, id: str) -> SessionEntry | None:
        return self._sessions.find(id)

    def service_account(self, id: str) -> AccountEntry | None:
        return self._accounts.find(id)

    def user(self, id: str) -> UserEntry | None:
        return self._users.find(id)

    def directory_user(self, id: str) -> DirectoryUserEntry | None:
        return self._directory_users.find(id)

    def directory_group(self, id: str) -> DirectoryGroupEntry | None:
        return self._directory_groups.find(id)

    def credential(self, id: str) -> CredentialEntry | None:
        return self._credentials.find(id)

    def enrollment(self, id: str) -> EnrollmentEntry | None:
        return self._enrollments.find(id)

    def version_of(self, session_id: str) -> int:
        """A number that changes exactly when a record changes that says who is behind this session; 0: nobody.

        It is never used twice for different records, so whatever was computed from a session holds for as long as
        its version stays and nothing in it has expired.
        """
        remembered = self._versions.get(session_id)
        if remembered is not None and remembered.generation == self.generation:
            return remembered.version
        if not self._knows(session_id):
            self._versions.pop(session_id, None)
            return 0
        parts = tuple(entry.generation if entry else 0 for entry in map(_entry, self._parts(session_id)))
        if remembered is None or remembered.parts != parts:
            self._last_version += 1
            self._versions[session_id] = _Versioned(self.generation, parts, self._last_version)
            return self._last_version
        remembered.generation = self.generation
        return remembered.version

    def is_ready_for(self, handle: Handle) -> bool:
        """Whether the copy is known to have what the handle's hint asks for, so that nothing need be waited for (A-7).

        A session that is unknown here while the store cannot be asked is not known to be absent (A-8).
        """
        if handle.id in self._accounts.lent and not handle.databroker_record_version:
            return True
        complete = self._complete
        if complete is None or not (self.reachable or self._knows(handle.id)):
            return False
        if not handle.databroker_record_version:
            return True
        server_version, record_version = handle.databroker_server_version, handle.databroker_record_version
        if complete.server_version == server_version and complete.record_version >= record_version:
            return True
        return self._confirmed.has(handle.id, server_version, record_version)

    async def ready_for(self, handle: Handle, *, timeout: float = WAIT_SECONDS) -> None:
        """Return once the copy has what the handle's hint asks for; reads it past the log if need be (A-7).

        Raises DatabrokerUnavailable when that cannot be found out in time (A-8). A session that is known here, at the
        version of the hint or later, is served even so.
        """
        if self.is_ready_for(handle):
            return
        try:
            async with asyncio.timeout(timeout):
                await self._same_data_set(handle.databroker_server_version)
                resets = -1
                while resets != self._resets:  # a new copy replaces what was read before it
                    resets = self._resets
                    await self._read(handle.id)
        except (TimeoutError, DatabrokerUnavailable) as error:
            if not self._knows_since(handle):
                reason = str(error) or f"no answer within {timeout:g} s"
                raise DatabrokerUnavailable(f"cannot ask for the records of a session: {reason}") from error
        self._confirmed.add(handle.id, handle.databroker_server_version, handle.databroker_record_version)

    def lend(self, records: Iterable[Record], now: datetime) -> None:
        """Count records as known that the store does not have yet, until they are taken back; its own come first.

        They never get into the store, where nobody would remove one that was revoked meanwhile. Service accounts that
        have expired are left out.
        """
        time = now.timestamp()
        for record in records:
            for table in self._lendable:
                if table.type == record.type:
                    table.lend(record)
        for id, account in tuple(self._accounts.lent.items()):
            if account.expires_at is not None and account.expires_at < time:
                del self._accounts.lent[id]

    async def take_back(self, *, timeout: float = WAIT_SECONDS) -> None:
        """Believe the store alone from now on; what it has under the lent ids is read past the log first."""
        try:
            async with asyncio.timeout(timeout):
                for table in self._lendable:
                    for id in tuple(table.lent):
                        await self._learn(table, id)
        except (TimeoutError, DatabrokerUnavailable) as error:
            log.info("taking back what was lent before the store answers", reason=str(error) or "no answer in time")
        finally:
            for table in self._lendable:
                table.take_back()
            self._forget()

    def _knows(self, id: str) -> bool:
        return self._sessions.find(id) is not None or self._accounts.find(id) is not None

    def _knows_since(self, handle: Handle) -> bool:
        entry = self._sessions.find(handle.id) or self._accounts.find(handle.id)
        if entry is None or self._sessions.cursor is None:
            return False
        if not handle.databroker_record_version:
            return True
        same = self._sessions.cursor.server_version == handle.databroker_server_version
        return same and entry.version >= handle.databroker_record_version

    async def _same_data_set(self, server_version: int) -> None:
        """Wait for the first delivery, and for the data set that the hint is from if the store has come to it."""
        while True:
            moved = self._moved
            if self._complete is not None:
                if server_version in (0, self._complete.server_version):
                    return
                info = await self._backend.server_info()
                if info.server_version != server_version:
                    return  # the hint is about a data set that is gone, or not ours
            await moved.wait()

    async def _read(self, id: str) -> None:
        """Read the records behind `id` from the store, as far as a login writes them."""
        if not await self._learn(self._sessions, id):
            await self._learn(self._accounts, id)
        done: set[tuple[str, str]] = set()
        while True:  # each round may name further records; it ends, since what is done is not done again
            found = False
            for table, part in list(self._parts(id)):
                key = (table.type, part)
                wanted = table in self._written_by_login or (table is self._sessions and part != id)
                if wanted and key not in done and len(done) < MAX_READS:
                    done.add(key)
                    found = await self._learn(table, part) or found
            if not found:
                return

    async def _learn(self, table: AnyTable, id: str) -> bool:
        try:
            record = await self._backend.get(table.type, id)
        except RecordNotFound:
            return False
        table.learn(record)
        return True

    def _parts(self, id: str) -> Iterator[Part]:
        """Every place where a record may be that makes up who is behind `id`, whether there is one or not."""
        yield self._accounts, id
        yield self._sessions, id
        account, session = self._accounts.find(id), self._sessions.find(id)
        if account is not None:
            yield from self._parts_of_user(account.user_id)
        if session is None:
            return
        yield from self._parts_of_user(session.user_id)
        effective = session
        if session.impersonates:
            yield self._sessions, session.impersonates
            target = self._sessions.find(session.impersonates)
            if target is None:
                return
            yield from self._parts_of_user(target.user_id)
            effective = target
        for _, credential_id in effective.devices:
            if credential_id:
                yield self._credentials, credential_id
                credential = self._credentials.find(credential_id)
                if credential is not None:
                    yield self._enrollments, credential.enrollment_id

    def _parts_of_user(self, user_id: str) -> Iterator[Part]:
        yield self._users, user_id
        yield self._directory_users, user_id
        directory = self._directory_users.find(user_id)
        if directory is not None:
            for group_id in directory.group_ids:
                yield self._directory_groups, group_id

    def _follower(self, table: AnyTable, health: Health) -> Callable[[], Any]:
        """A service that keeps one table up to date, and goes on where it was when it failed."""

        async def run() -> None:
            try:
                if table.cursor is not None:
                    await self._backend.server_info()  # whether it answers; following alone would not tell
                    self._mark(table, reachable=True)
                async with aclosing(follow(self._backend, table.type, health=health, after=table.cursor)) as changes:
                    async for change in changes:
                        if isinstance(change, Reset):
                            await table.reset(change)
                            self._forget()
                        else:
                            table.update(change)
                            if change.record.deleted:
                                self._versions.pop(change.record.id, None)
                        self._mark(table, reachable=True)
            except DatabrokerUnavailable:
                self._mark(table, reachable=False)
                raise

        return run

    def _forget(self) -> None:
        """A table was replaced: nothing is confirmed any more, and who is gone needs no version."""
        self._resets += 1
        self._confirmed.clear()
        self._versions = {id: versioned for id, versioned in self._versions.items() if self._knows(id)}

    def _mark(self, table: AnyTable, *, reachable: bool) -> None:
        table.reachable = reachable
        self._complete = caught_up(self._tables)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


@asynccontextmanager
async def open_sessions(backend: Backend, clock: Clock, health: Health) -> AsyncIterator[Sessions]:
    """Keep a live copy of who is signed in while the block runs.

    It yields at once, be the store reachable or not, so that what needs nobody's identity is served; `ready_for`
    waits for the first delivery.
    """
    sessions = Sessions(backend)
    async with asyncio.TaskGroup() as group:
        tasks = []
        for table in sessions._tables:
            follower = sessions._follower(table, health)
            tasks.append(
                group.create_task(supervise(f"sessions {table.type}", follower, clock=clock, backoff=_prompt()))
            )
        try:
            yield sessions
        finally:
            for task in tasks:
                task.cancel()


def _prompt() -> Backoff:
    """Nobody may be revoked later than this after the store is back (A-32)."""
    return Backoff(cap=5.0)


def _entry(part: Part) -> entries.Entry | None:
    table, id = part
    entry: entries.Entry | None = table.find(id)
    return entry
