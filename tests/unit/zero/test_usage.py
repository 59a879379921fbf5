"""Usage reports: who is told of, when, and as whom."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.errors import ControlPlaneUnavailable
from pomerium_agent.pb.pomerium import session_pb2, user_pb2
from pomerium_agent.records import Record, pack
from pomerium_agent.zero import usage
from pomerium_agent.zero.sent import Sent
from pomerium_agent.zero.usage import INTERVAL, SESSION, USER, People, Usage, pseudonym
from tests.fakes.clock import ManualClock, settle
from tests.fakes.control_plane import FakeControlPlane, html, say, serve_control_plane
from tests.unit.zero.wire import open_api

KEY = b"p" * 32


def session(id: str, user_id: str, issued_at: int | None = None, nanos: int = 0) -> Record:
    message = session_pb2.Session(id=id, user_id=user_id)
    if issued_at is not None:
        message.issued_at.CopyFrom(Timestamp(seconds=issued_at, nanos=nanos))
    return Record(type=SESSION, id=id, data=pack(message))


def user(id: str, email: str = "") -> Record:
    return Record(type=USER, id=id, data=pack(user_pb2.User(id=id, email=email)))


@pytest.mark.parametrize(
    ("text", "stands_for"),
    [
        ("ID", "T9V1yL/UueF/LVuF6XjoSNde0INElXG10zKepmyPke8="),
        ("EMAIL@example.com", "8w5rtnZyv0EGkpHmTlkmupgb1jCzn/IxGCfvpdGGnvI="),
    ],
)
def test_pseudonyms_are_the_references(text: str, stands_for: str) -> None:
    """Z-61: the vectors of zero link 16.2."""
    assert pseudonym(b"XXX", text) == stands_for


async def told_of(people: People) -> list[tuple[str, str, str]]:
    found: list[dict[str, str]] = []

    async def post(users: Sequence[dict[str, str]]) -> None:
        found.extend(users)

    await people.report(KEY, post)
    return [(one["pseudonymousId"], one["pseudonymousEmail"], one["lastSignedInAt"]) for one in found]


async def test_what_is_known_of_people_comes_from_all_their_records() -> None:
    """Z-62: the latest sign-in, the first e-mail address; what belongs to nobody is left out."""
    people = People()
    for record in (
        session("s1", "ada", 100),
        session("s2", "ada", 200, 5),
        session("s3", "ada", 150),
        user("ada", "Ada@Example.com"),
        user("ada", "other@example.com"),
        session("s4", "bob"),
        user("eve"),
        session("s5", ""),
        user("", "nobody@example.com"),
        Record(type=SESSION, id="torn"),
    ):
        people.take(record)

    assert await told_of(people) == [
        (pseudonym(KEY, "ada"), pseudonym(KEY, "Ada@Example.com"), "1970-01-01T00:03:20.000000005Z"),
        (pseudonym(KEY, "bob"), "", "1970-01-01T00:00:00Z"),
        (pseudonym(KEY, "eve"), "", "0001-01-01T00:00:00Z"),
    ]


async def test_only_who_changed_is_told_of_again() -> None:
    """Z-62: an older session, or one that ends, is no news."""
    people = People()
    people.take(session("s1", "ada", 100))
    people.take(session("s2", "bob", 100))
    await told_of(people)

    people.take(session("s1", "ada", 100))
    people.take(session("s3", "ada", 50))
    people.take(session("s2", "bob", 100).as_deleted(ManualClock().now()))
    assert not people.news.is_set()
    people.take(session("s4", "bob", 101))

    assert [id for id, _, _ in await told_of(people)] == [pseudonym(KEY, "bob")]


async def test_who_changes_while_a_report_is_under_way_is_told_of_in_the_next() -> None:
    """W14."""
    people = People()
    people.take(session("s1", "ada", 100))

    async def post(_users: Sequence[dict[str, str]]) -> None:
        people.take(session("s2", "ada", 200))

    await people.report(KEY, post)

    assert people.news.is_set()
    assert [time for _, _, time in await told_of(people)] == ["1970-01-01T00:03:20Z"]
    assert not people.news.is_set()


async def test_many_people_are_told_of_in_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """W14: what was acknowledged is not sent again when a later request fails."""
    monkeypatch.setattr(usage, "USERS_PER_REQUEST", 2)
    people = People()
    for number in range(5):
        people.take(session(f"s{number}", f"user{number}", 1))
    sizes: list[int] = []

    async def post(users: Sequence[dict[str, str]]) -> None:
        sizes.append(len(users))
        if len(sizes) == 2:
            raise ControlPlaneUnavailable("gone")

    with pytest.raises(ControlPlaneUnavailable):
        await people.report(KEY, post)
    await people.report(KEY, post)

    assert sizes == [2, 2, 2, 1]


@dataclass(slots=True, kw_only=True)
class House:
    plane: FakeControlPlane
    backend: MemoryBackend
    clock: ManualClock
    sent: Sent

    @property
    def reports(self) -> list[list[dict[str, Any]]]:
        return [json.loads(seen.body)["users"] for seen in self.plane.requests("reportUsage")]

    async def until_reports(self, count: int) -> None:
        await self.plane.until(lambda: len(self.reports) == count)

    async def until_sleeping(self) -> None:
        """The report under way is over, and the next is waited for."""
        async with asyncio.timeout(5):
            await self.clock.until_sleeping()


@asynccontextmanager
async def reporting(*records: Record, first: Sequence[Any] = ()) -> AsyncIterator[House]:
    clock, sent = ManualClock(), Sent()
    backend = MemoryBackend(clock)
    await backend.put(records)
    async with serve_control_plane() as plane, open_api(plane, clock=clock) as api:
        plane.script("reportUsage", *first)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(Usage(backend, KEY, api.report_usage, sent, clock).run())
            yield House(plane=plane, backend=backend, clock=clock, sent=sent)
            task.cancel()
    await backend.close()


async def test_the_first_report_has_everybody_and_later_ones_are_a_minute_apart() -> None:
    """Z-9, Z-62."""
    async with reporting(session("s1", "ada", 100), session("s2", "bob", 100), user("ada", "ada@example.com")) as at:
        await at.until_reports(1)
        await at.until_sleeping()
        await at.backend.put([session("s3", "bob", 200)])
        await settle()
        assert len(at.reports) == 1

        await at.clock.advance(INTERVAL)
        await at.until_reports(2)
        await at.until_sleeping()

        assert {one["pseudonymousId"] for one in at.reports[0]} == {pseudonym(KEY, "ada"), pseudonym(KEY, "bob")}
        assert at.reports[1] == [
            {
                "lastSignedInAt": "1970-01-01T00:03:20Z",
                "pseudonymousEmail": "",
                "pseudonymousId": pseudonym(KEY, "bob"),
            }
        ]
        assert at.sent.to_json()["usage"] == {
            "sent_at": at.clock.now().isoformat(),
            "count": 1,
            "users": at.reports[1],
        }
        assert b"ada" not in b"".join(seen.body for seen in at.plane.requests("reportUsage"))


@pytest.mark.parametrize(
    "trouble", [say({"error": "no"}, 400), say({"error": "broken"}, 500), html(502)], ids=["refused", "broken", "proxy"]
)
async def test_a_report_that_fails_is_tried_again_with_everybody_in_it(trouble: Any) -> None:
    """W14: nobody is forgotten, and nothing about usage ends a replica."""
    async with reporting(session("s1", "ada", 100), first=[trouble]) as at:
        await at.until_reports(1)
        await at.until_sleeping()
        assert at.sent.to_json()["usage"] is None

        await at.clock.advance(1)
        await at.until_reports(2)

        assert at.reports[0] == at.reports[1]


async def test_nothing_is_sent_when_nobody_is_there() -> None:
    async with reporting() as at:
        await settle()
        await at.clock.advance(3 * INTERVAL)

        assert at.reports == []
        await at.backend.put([session("s1", "ada", 100)])
        await at.until_reports(1)
