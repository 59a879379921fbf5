"""What records in memory may cost: the work asked for, not the size of what is there."""

import time
from collections.abc import Awaitable, Callable

from pomerium_agent.databroker import MemoryBackend, Options
from pomerium_agent.pb.pomerium import session_pb2
from pomerium_agent.records import Cursor, Record, pack
from tests.fakes.clock import ManualClock

FEW, MANY = 200, 50_000
ALLOWED = 10  # times slower among MANY; a scan of them all would be some two hundred times


def session(id: int) -> Record:
    return Record(type="a", id=str(id), data=pack(session_pb2.Session(id=str(id), user_id=f"user-{id % 1000}")))


async def store_of(count: int) -> MemoryBackend:
    backend = MemoryBackend(ManualClock())
    await backend.set_options("a", Options(capacity=count, indexable_fields=("user_id",)))
    await backend.put([session(number) for number in range(count)])
    return backend


async def best(call: Callable[[], Awaitable[object]]) -> float:
    """Seconds for twenty calls, at the best of several attempts: other processes share this machine."""
    times = []
    for _ in range(10):
        began = time.perf_counter()
        for _ in range(20):
            await call()
        times.append(time.perf_counter() - began)
    return min(times)


async def test_a_call_costs_the_same_among_many_records_as_among_few() -> None:
    few, many = await store_of(FEW), await store_of(MANY)

    def calls(backend: MemoryBackend) -> dict[str, Callable[[], Awaitable[object]]]:
        numbers = iter(range(10**6, 10**7))

        async def last_change() -> None:
            end = (await backend.server_info()).cursor
            near = Cursor(end.server_version, end.record_version - 1)
            assert len([c async for c in backend.changes(near, "a", wait=False)]) == 1

        return {
            "get": lambda: backend.get("a", "1"),
            "query by id": lambda: backend.query("", filter={"id": "1"}, limit=1),
            "query by absent field": lambda: backend.query("a", filter={"user_id": "nobody"}, limit=1),
            "query by network": lambda: backend.query("a", filter={"$index": "10.0.0.1"}, limit=1),
            "changes": last_change,
            "put that evicts": lambda: backend.put([session(next(numbers))]),
        }

    for (name, with_few), with_many in zip(calls(few).items(), calls(many).values(), strict=True):
        assert await best(with_many) < ALLOWED * await best(with_few), name
