"""Who signed in and when, told to the control plane by pseudonym (zero link 16.2)."""

import asyncio
import base64
import hmac
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from google.protobuf.timestamp_pb2 import Timestamp

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.follow import Reset, follow
from pomerium_agent.errors import ControlPlaneUnavailable, Refused
from pomerium_agent.pb.pomerium import session_pb2, user_pb2
from pomerium_agent.records import Record, type_url, unpack
from pomerium_agent.runtime.backoff import patient
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.supervisor import supervise, until_done
from pomerium_agent.zero.sent import Sent

SESSION, USER = type_url(session_pb2.Session), type_url(user_pb2.User)
INTERVAL = 60.0
USERS_PER_REQUEST = 10_000  # some 2 MB of JSON
NEVER = "0001-01-01T00:00:00Z"
_NEVER = (-62_135_596_800, 0)  # the same moment
SLICE = 500  # records that are looked at before others get their turn

Post = Callable[[Sequence[dict[str, str]]], Awaitable[None]]  # raises Refused and ControlPlaneUnavailable


def pseudonym(key: bytes, text: str) -> str:
    """What stands for a user id or an e-mail address; whoever lacks the key cannot guess back (Z-61)."""
    return base64.b64encode(hmac.digest(key, text.encode(), "sha256")).decode()


@dataclass(frozen=True, slots=True)
class _Person:
    signed_in: tuple[int, int] = _NEVER  # seconds and nanoseconds
    email: str = ""


class People:
    """Everybody who is known, and of whom nothing newer was told (Z-62). Deletions change nothing."""

    def __init__(self) -> None:
        self._people: dict[str, _Person] = {}
        self._updated: dict[str, None] = {}  # in the order of their change
        self.news = asyncio.Event()  # somebody is updated

    def take(self, record: Record) -> None:
        """Look at one session or user."""
        if record.deleted:
            return
        if record.type == SESSION and (session := unpack(record.data, session_pb2.Session)) is not None:
            before = self._people.get(session.user_id, _Person())
            issued = session.issued_at.seconds, session.issued_at.nanos
            self._put(session.user_id, _Person(max(before.signed_in, issued), before.email))
        elif record.type == USER and (user := unpack(record.data, user_pb2.User)) is not None:
            before = self._people.get(user.id, _Person())
            self._put(user.id, _Person(before.signed_in, before.email or user.email))

    def _put(self, user_id: str, person: _Person) -> None:
        if user_id and self._people.get(user_id) != person:
            self._people[user_id] = person
            self._updated[user_id] = None
            self.news.set()

    async def report(self, key: bytes, post: Post) -> list[dict[str, str]]:
        """Tell of everybody who is new or changed, many at a time; who was told of is not told of again (W14)."""
        told: list[dict[str, str]] = []
        waiting = list(self._updated)
        for start in range(0, len(waiting), USERS_PER_REQUEST):
            batch = {user_id: self._people[user_id] for user_id in waiting[start : start + USERS_PER_REQUEST]}
            users = await asyncio.to_thread(_said_of, batch.items(), key)
            await post(users)
            told += users
            for user_id, person in batch.items():
                if self._people[user_id] == person:
                    del self._updated[user_id]
        if not self._updated:
            self.news.clear()
        return told


def _said_of(people: Iterable[tuple[str, _Person]], key: bytes) -> list[dict[str, str]]:
    return [
        {
            "lastSignedInAt": _rfc3339(person.signed_in),
            "pseudonymousEmail": pseudonym(key, person.email) if person.email else "",
            "pseudonymousId": pseudonym(key, user_id),
        }
        for user_id, person in people
    ]


def _rfc3339(moment: tuple[int, int]) -> str:
    try:
        return Timestamp(seconds=moment[0], nanos=moment[1]).ToJsonString()
    except ValueError:  # no time at all, in a record of somebody else's making
        return NEVER


class Usage:
    """Follows the records and reports at once whenever there is news, and at most once a minute.

    A report that fails is tried again with all that changed meanwhile; nothing about usage ever ends the agent (W14).
    The key must not be empty: without one, anybody could find out who is behind a pseudonym by trying.
    """

    def __init__(self, backend: Backend, key: bytes, post: Post, sent: Sent, clock: Clock) -> None:
        self._backend = backend
        self._key = key
        self._post = post
        self._sent = sent
        self._clock = clock
        self._people = People()
        self._read = Latest(frozenset[str]())  # types that were delivered once

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for type in (SESSION, USER):
                following = supervise("usage", partial(self._follow, type), clock=self._clock, backoff=patient())
                group.create_task(following)
            group.create_task(self._report())

    async def _follow(self, type: str) -> None:
        async with aclosing(follow(self._backend, type)) as changes:
            async for change in changes:
                if isinstance(change, Reset):
                    for number, record in enumerate(change.records, 1):
                        self._people.take(record)
                        if number % SLICE == 0:
                            await asyncio.sleep(0)
                    self._read.set(self._read.value | {type})
                else:
                    self._people.take(change.record)

    async def _report(self) -> None:
        async for types in self._read.follow():
            if len(types) == 2:  # the first report contains everybody
                break
        while True:
            await self._people.news.wait()
            await until_done("usage-report", self._once, clock=self._clock, backoff=patient())
            await self._clock.sleep(INTERVAL)

    async def _once(self) -> None:
        try:
            told = await self._people.report(self._key, self._post)
        except Refused as error:  # the jobs that need the token meet the same answer and decide
            raise ControlPlaneUnavailable(f"refused: {error}") from error
        self._sent.usage(told, self._clock.now())
