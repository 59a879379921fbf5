"""The promise of databroker.Backend over random histories: who follows the changes knows what who reads knows.

Hypothesis writes a history; a plain dictionary says what must be current after it; readers that began at any
point of it, or that followed all along, must arrive at exactly that.
"""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pomerium_agent.databroker import Backend, Options, Reset, follow
from pomerium_agent.errors import CursorExpired
from pomerium_agent.records import Cursor, Record
from tests.contract.stores import SOON, OpenStore, Store, gone, so_far, struct

TYPES = ("a", "b")
Key = tuple[str, str]
Contents = dict[Key, Record]


@dataclass(frozen=True, slots=True)
class Put:
    """(type, id, value) to write; the value None deletes."""

    records: tuple[tuple[str, str, int | None], ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Let time pass; then the clean-up runs."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Configure:
    type: str
    options: Options


@dataclass(frozen=True, slots=True)
class Clear:
    pass


@dataclass(frozen=True, slots=True)
class Mark:
    """A reader takes a copy here, and reads on from it at the end."""


Step = Put | Wait | Configure | Clear | Mark

ids = st.sampled_from("12345")
puts = st.builds(
    Put,
    st.lists(
        st.tuples(st.sampled_from(TYPES), ids, st.one_of(st.none(), st.integers(0, 9))), min_size=1, max_size=4
    ).map(tuple),
)
waits = st.builds(Wait, st.sampled_from([0.0, 20.0, 61.0, 3500.0, 3601.0]))
configurations = st.builds(
    Configure,
    st.sampled_from(TYPES),
    st.builds(
        Options,
        capacity=st.one_of(st.none(), st.integers(0, 4)),
        ttl=st.one_of(st.none(), st.sampled_from([timedelta(seconds=30), timedelta(hours=2)])),
    ),
)
steps = st.one_of(puts, puts, puts, waits, configurations, st.builds(Mark), st.builds(Mark), st.just(Clear()))
histories = st.lists(steps, max_size=40)


@dataclass(slots=True)
class Model:
    """What must be current, in plain Python: a record's place in `order` is the turn of its last write."""

    store: Store
    values: dict[Key, int] = field(default_factory=dict)
    order: dict[Key, int] = field(default_factory=dict)
    written_at: dict[Key, float] = field(default_factory=dict)
    options: dict[str, Options] = field(default_factory=dict)
    turn: int = 0

    def put(self, step: Put) -> None:
        for type, id, value in step.records:
            self.turn += 1
            self._forget((type, id))
            if value is not None:
                self.values[(type, id)] = value
                self.order[(type, id)] = self.turn
                self.written_at[(type, id)] = self.store.clock.monotonic()
        for type in {type for type, _, _ in step.records}:
            capacity = self.options.get(type, Options()).capacity
            oldest_first = sorted((k for k in self.values if k[0] == type), key=self.order.__getitem__)
            for key in oldest_first[: max(0, len(oldest_first) - capacity)] if capacity is not None else ():
                self._forget(key)

    def expire(self) -> None:
        for key in list(self.values):
            ttl = self.options.get(key[0], Options()).ttl
            if ttl is not None and self.store.clock.monotonic() - self.written_at[key] > ttl.total_seconds():
                self._forget(key)

    def clear(self) -> None:
        self.values.clear()
        self.options.clear()

    def _forget(self, key: Key) -> None:
        self.values.pop(key, None)


async def play(store: Store, history: list[Step]) -> tuple[Model, list[tuple[Cursor, Contents]]]:
    """Do the steps on the store and on the model; return the model and the copies that readers took on the way."""
    model = Model(store)
    marks: list[tuple[Cursor, Contents]] = [await copy(store.backend)]
    for step in history:
        match step:
            case Put():
                model.put(step)
                await store.backend.put(
                    [gone(t, i) if value is None else struct(t, i, {"v": value}) for t, i, value in step.records]
                )
            case Wait(seconds):
                store.clock.jump(seconds)
                model.expire()
                await store.backend.clean_up()
            case Configure(type, options):
                model.options[type] = options
                await store.backend.set_options(type, options)
            case Clear():
                model.clear()
                await store.backend.clear()
            case Mark():
                marks.append(await copy(store.backend))
    return model, marks


async def copy(backend: Backend) -> tuple[Cursor, Contents]:
    cursor, records = await backend.latest()
    return cursor, {(record.type, record.id): record for record in records}


def take_in(contents: Contents, change: Record) -> None:
    if change.deleted:
        contents.pop((change.type, change.id), None)
    else:
        contents[(change.type, change.id)] = change


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(history=histories)
def test_a_reader_of_changes_from_any_cursor_arrives_at_the_current_state(
    open_store: OpenStore, history: list[Step]
) -> None:
    """D-13, D-17; and the current state is what the history says it is."""

    async def check() -> None:
        async with open_store() as store:
            model, marks = await play(store, history)

            _, current = await copy(store.backend)
            assert {key: struct(*key, {"v": value}).data for key, value in model.values.items()} == {
                key: record.data for key, record in current.items()
            }
            info = await store.backend.server_info()
            for cursor, contents in marks:
                try:
                    changes = await so_far(store.backend, cursor)
                except CursorExpired:
                    cleared = cursor.server_version != info.server_version
                    assert cleared or 0 < info.earliest_record_version - 1 > cursor.record_version
                    continue
                versions = [change.version for change in changes]
                assert versions == list(range(cursor.record_version + 1, info.latest_record_version + 1))
                for type in TYPES:
                    assert await so_far(store.backend, cursor, type) == [c for c in changes if c.type == type]
                for change in changes:
                    take_in(contents, change)
                assert contents == current

    asyncio.run(check())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(history=histories, type=st.sampled_from(["", *TYPES]))
def test_who_follows_all_along_arrives_at_the_current_state(
    open_store: OpenStore, history: list[Step], type: str
) -> None:
    """D-37, D-40: whatever is cleared or cleaned up meanwhile."""
    last = struct(type or "a", "the end")

    async def keep_copy(store: Store) -> Contents:
        contents: Contents = {}
        async with aclosing(follow(store.backend, type)) as changes:
            async for change in changes:
                if isinstance(change, Reset):
                    contents = {(record.type, record.id): record for record in change.records}
                else:
                    take_in(contents, change.record)
                if (last.type, last.id) in contents:
                    return contents
        raise AssertionError("to follow has no end")

    async def check() -> None:
        async with open_store() as store, asyncio.timeout(4 * SOON), asyncio.TaskGroup() as group:
            following = group.create_task(keep_copy(store))
            await play(store, history)
            for name in TYPES:
                await store.backend.set_options(name, Options())
            await store.backend.put([last])

            contents = await following
            _, current = await copy(store.backend)
            assert contents == {key: record for key, record in current.items() if type in ("", key[0])}

    asyncio.run(check())
