"""What records cost: to write, to hear of, to read all, to hold; by the kind of store, followers and records.

`openers` says which stores are measured: whatever opens a Backend can be added.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path

from bench.load import median
from bench.report import Cell, Column, Section
from pomerium_agent.databroker import Backend, MemoryBackend
from pomerium_agent.databroker.postgres import open_postgres
from pomerium_agent.databroker.sqlite import open_sqlite
from pomerium_agent.demo.postgres import find_programs, run_postgres
from pomerium_agent.errors import SettingsError
from pomerium_agent.pb.pomerium import session_pb2
from pomerium_agent.records import Cursor, Record, pack
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.runtime.health import Health
from pomerium_agent.sessions.entries import SESSION

Opener = Callable[[Path], AbstractAsyncContextManager[Backend]]
FOLLOWERS = (1, 10, 100)
WRITERS = 32
BATCH = 500


@asynccontextmanager
async def open_memory(_place: Path) -> AsyncIterator[Backend]:
    backend = MemoryBackend(SystemClock())
    yield backend
    await backend.close()


@asynccontextmanager
async def open_file(place: Path) -> AsyncIterator[Backend]:
    backend = await open_sqlite(f"file://{place}", SystemClock())
    yield backend
    await backend.close()


@asynccontextmanager
async def open_database(_place: Path) -> AsyncIterator[Backend]:
    """A PostgreSQL of its own, with fsync off: the cost of the protocol and of its SQL, not of the disk."""
    manager = run_postgres()
    server = await asyncio.to_thread(manager.__enter__)
    try:
        async with open_postgres(server.url(), SystemClock(), Health()) as backend:
            yield backend
    finally:
        await asyncio.to_thread(manager.__exit__, None, None, None)


def openers() -> Mapping[str, Opener]:
    """Those that can be measured here."""
    found: dict[str, Opener] = {"memory": open_memory, "file": open_file}
    try:
        find_programs()
    except SettingsError as error:
        print(f"without PostgreSQL: {error}", file=sys.stderr)
    else:
        found["postgres"] = open_database
    return found


def session(number: int) -> Record:
    """As a login leaves it: some claims, tokens of the length that providers give out."""
    id = f"00000000-0000-4000-8000-{number:012}"
    message = session_pb2.Session(id=id, user_id=f"user-{number}", idp_id="idp")
    message.oauth_token.access_token = f"{number:012}" * 40
    message.oauth_token.refresh_token = f"{number:012}" * 10
    for claim in ("email", "name", "department"):
        message.claims[claim].append(f"{claim}-{number}")
    return Record(type=SESSION, id=id, data=pack(message))


async def bench_databroker(
    place: Path,
    sizes: Sequence[int],
    seconds: float,
    say: Callable[[str], None],
    stores: Mapping[str, Opener] | None = None,
) -> list[Section]:
    """Each store by itself, in a folder of its own."""
    rows: list[Sequence[Cell]] = []
    grown: list[tuple[str, int, list[float]]] = []
    for kind, opener in (openers() if stores is None else stores).items():
        for followers in FOLLOWERS:
            say(f"{kind}, {followers} followers")
            async with opener(place / f"{kind}-{followers}") as backend:
                rows.append([kind, followers, *await _changes(backend, followers, seconds)])
        for size in sizes:
            say(f"{kind}, {size} sessions")
            async with opener(place / f"{kind}-{size}") as backend:
                grown.append((kind, size, await _growth(backend, size)))
    views: list[Sequence[Cell]] = []
    for size in sizes:
        say(f"live view of {size} sessions")
        views.append([size, *await _view(place / f"view-{size}", size)])
    few, many = sizes[0], sizes[-1]
    per_session = {(kind, size): found[2] for kind, size, found in grown}
    return [
        Section(
            name="databroker",
            title=f"records written, and heard of by followers; alone, and by {WRITERS} writers at once",
            columns=(
                Column("store"),
                Column("followers", "d"),
                Column("puts/s", ".0f"),
                Column(f"puts/s of {WRITERS}", ".0f"),
                Column("put p50 ms", ".2f"),
                Column("heard by all p50 ms", ".2f"),
                Column("p99 ms", ".2f"),
            ),
            rows=rows,
        ),
        Section(
            name="databroker.size",
            title="the same by the number of sessions that are there",
            columns=(
                Column("store"),
                Column("sessions", "d"),
                Column("fill s", ".2f"),
                Column("latest s", ".2f"),
                Column("latest µs/session"),
                Column("put p50 ms", ".2f"),
                Column("get p50 ms", ".2f"),
            ),
            rows=[[kind, size, *found] for kind, size, found in grown],
            ratios={
                f"{kind}: latest per session, {many}/{few}": per_session[kind, many] / per_session[kind, few]
                for kind in (openers() if stores is None else stores)
            },
        ),
        Section(
            name="databroker.view",
            title="the live view of who is signed in, in a process of its own over a file store",
            columns=(
                Column("sessions", "d"),
                Column("ready s", ".2f"),
                Column("MB", ".0f"),
                Column("bytes/session", ".0f"),
            ),
            rows=views,
        ),
    ]


async def _changes(backend: Backend, followers: int, seconds: float) -> list[float]:
    heard: dict[int, list[float]] = {}
    cursor = (await backend.server_info()).cursor
    took, latencies = [], []
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_follow(backend, cursor, heard)) for _ in range(followers)]
        await asyncio.sleep(0.1)
        alone = await _rate(backend, 1, seconds)
        together = await _rate(backend, WRITERS, seconds)
        for number in range(max(20, int(100 * seconds))):
            began = time.perf_counter()
            version = (await backend.put([session(number)])).records[0].version
            took.append(time.perf_counter() - began)
            while len(heard.get(version, ())) < followers:  # noqa: ASYNC110  # an event would be part of the cost
                await asyncio.sleep(0)
            latencies.append(max(heard[version]) - began)
        for task in tasks:
            task.cancel()
    latencies.sort()
    p99 = latencies[int(len(latencies) * 0.99)]
    return [alone, together, 1e3 * median(took), 1e3 * median(latencies), 1e3 * p99]


async def _rate(backend: Backend, writers: int, seconds: float) -> float:
    done = 0
    began = time.perf_counter()

    async def write(writer: int) -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            await backend.put([session(writer * 1_000_000 + done % 1000)])
            done += 1

    async with asyncio.TaskGroup() as group:
        for writer in range(writers):
            group.create_task(write(writer))
    return done / (time.perf_counter() - began)


async def _follow(backend: Backend, after: Cursor, heard: dict[int, list[float]]) -> None:
    async with aclosing(backend.changes(after)) as changes:
        async for change in changes:
            heard.setdefault(change.version, []).append(time.perf_counter())


async def fill(backend: Backend, size: int) -> None:
    """Write that many sessions."""
    for start in range(0, size, BATCH):
        await backend.put([session(number) for number in range(start, min(size, start + BATCH))])


async def _growth(backend: Backend, size: int) -> list[float]:
    began = time.perf_counter()
    await fill(backend, size)
    filled = time.perf_counter() - began
    began = time.perf_counter()
    _, records = await backend.latest(SESSION)
    latest = time.perf_counter() - began
    if len(records) != size:
        raise ValueError(f"{len(records)} of {size} sessions were read")
    puts, gets = [], []
    for number in range(0, size, max(1, size // 100)):
        began = time.perf_counter()
        await backend.put([session(number)])
        puts.append(time.perf_counter() - began)
        began = time.perf_counter()
        await backend.get(SESSION, records[number].id)
        gets.append(time.perf_counter() - began)
    return [filled, latest, 1e6 * latest / size, 1e3 * median(puts), 1e3 * median(gets)]


async def _view(place: Path, size: int) -> list[float]:
    """A process of its own, so that its memory is that of the view."""
    async with open_file(place) as backend:
        await fill(backend, size)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.view", str(place), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    if process.returncode:
        raise ValueError(f"the live view of {size} sessions failed")
    found = json.loads(said)
    return [found["seconds"], found["mb"], 1e6 * found["mb"] / size]
