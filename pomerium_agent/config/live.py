"""The configuration in force, kept up to date: follows the records and compiles them again after each change."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from pomerium_agent.config.compile import CompileCache, compile_snapshot
from pomerium_agent.config.digest import CONFIG, CONFIG_TYPES, KEY_PAIR, POLICY, ROUTE, SETTINGS
from pomerium_agent.config.snapshot import ConfigSnapshot, Fault
from pomerium_agent.config.upstream_tls import ReadFile
from pomerium_agent.config.versions import KNOWN_VERSIONS
from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.follow import Reset, follow
from pomerium_agent.errors import ConfigRejected
from pomerium_agent.records import Record
from pomerium_agent.runtime.backoff import patient
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.supervisor import supervise
from pomerium_agent.settings import Local

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 0.1  # a burst of changes is compiled once
SETTLE_SECONDS_LARGE = 1.0
LARGE_ROUTES = 5000
MAX_FILE_BYTES = 1024 * 1024  # of a certificate or key that a route names
REPORTED_FAULTS = 50
FILES_SECONDS = 10.0  # between looks at the files that routes name: tokens of Kubernetes are replaced every hour
ENTITY_TYPES = (KEY_PAIR, POLICY, ROUTE, SETTINGS)

CompileNow = Callable[[tuple[Record, ...], "Compiled | None", bool], "Compiled"]


@dataclass(frozen=True, slots=True)
class Compiled:
    """One snapshot, everything that was left out of it, and the records that it is made of.

    `whole` is false while records of some type were not delivered yet.
    """

    snapshot: ConfigSnapshot
    faults: tuple[Fault, ...] = ()
    records: tuple[Record, ...] = field(default=(), repr=False)
    whole: bool = True


@dataclass(slots=True)
class _Records:
    """This replica's copy of the configuration records, by type and id; `delivered` are the types seen whole."""

    by_type: dict[str, dict[str, Record]] = field(default_factory=dict)
    delivered: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def replace(self, type: str, records: Sequence[Record]) -> None:
        self.by_type[type] = {record.id: record for record in records}
        self.delivered.add(type)
        self.changed.set()

    def update(self, record: Record) -> None:
        """Put one record; a deleted one leaves with its routes and settings (Z-49)."""
        records = self.by_type.setdefault(record.type, {})
        if record.deleted:
            records.pop(record.id, None)
        else:
            records[record.id] = record
        self.changed.set()

    def all(self) -> tuple[Record, ...]:
        return tuple(record for records in self.by_type.values() for record in records.values())


class _Files:
    """Reads the files that routes name, and remembers how they looked, to see when one is another."""

    def __init__(self, read_file: ReadFile) -> None:
        self._read_file = read_file
        self._seen: dict[str, tuple[int, ...]] = {}

    def __call__(self, path: str) -> bytes:
        self._seen[path] = _look(path)  # before it is read: what changes meanwhile is seen as a change
        return self._read_file(path)

    def forget(self) -> None:
        """What is named from now on is all that counts."""
        self._seen = {}

    def changed(self) -> bool:
        return any(_look(path) != seen for path, seen in tuple(self._seen.items()))


def _look(path: str) -> tuple[int, ...]:
    """Different when a file is written, replaced, or a link leads elsewhere; empty without one."""
    try:
        stat = Path(path).stat()
    except (OSError, ValueError):
        return ()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def read_local_file(path: str) -> bytes:
    """A file that a route names, from this machine's disk; devices, pipes and anything large are refused."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(2, "no such file" if not file.exists() else "not a regular file", path)
    with file.open("rb") as opened:
        content = opened.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise OSError(27, f"larger than {MAX_FILE_BYTES} bytes", path)
    return content


@asynccontextmanager
async def open_config(
    backend: Backend,
    *,
    clock: Clock,
    health: Health,
    local: Local | None = None,
    versions: Mapping[str, str] = KNOWN_VERSIONS,
    secret: bytes = b"",
    read_file: ReadFile | None = read_local_file,
) -> AsyncIterator[Latest[Compiled | None]]:
    """Follow the six record types and offer the newest configuration (Z-45).

    The cell holds None until the Config records were delivered for the first time, be it none of them; entities
    count once all four types were delivered (Z 18.2). Changes that come together are compiled together. What
    cannot be compiled at all leaves the last configuration in force (Z-48). `config.databroker.build` says what
    is wrong; each fault is logged once for as long as it lasts. A file that a route names and that changes is read
    again within seconds.
    """
    latest: Latest[Compiled | None] = Latest(None)
    records = _Records()

    def compile_now(current: tuple[Record, ...], previous: Compiled | None, entities_ready: bool) -> Compiled:
        """Runs in a thread, and there alone; nothing it is given changes meanwhile."""
        if files is not None:
            files.forget()
        snapshot, faults = compile_snapshot(
            current,
            now=clock.now(),
            previous=previous.snapshot if previous else None,
            cache=cache,
            local=local,
            versions=versions,
            secret=secret,
            entities_ready=entities_ready,
            read_file=files,
        )
        return Compiled(snapshot, faults, current)

    cache = CompileCache()
    files = _Files(read_file) if read_file is not None else None
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_compiling(records, compile_now, latest, clock, health))]
        if files is not None:
            tasks.append(group.create_task(_watching(files, records, clock)))
        for type in CONFIG_TYPES:
            follower = _following(backend, type, records, health)
            tasks.append(group.create_task(_supervised(f"config {type}", follower, clock)))
        try:
            yield latest
        finally:
            for task in tasks:
                task.cancel()
    health.terminating(Check.CONFIG_BUILD)


async def _compiling(
    records: _Records, compile_now: CompileNow, latest: Latest[Compiled | None], clock: Clock, health: Health
) -> None:
    """Compile after each burst of changes, for ever."""
    reporter = _Reporter(health)
    while True:
        await records.changed.wait()
        records.changed.clear()
        if CONFIG not in records.delivered:
            continue
        before = latest.value
        large = before is not None and len(before.snapshot.routes) > LARGE_ROUTES
        await clock.sleep(SETTLE_SECONDS_LARGE if large else SETTLE_SECONDS)
        records.changed.clear()
        current = records.all()
        entities_ready = records.delivered.issuperset(ENTITY_TYPES)
        whole = records.delivered.issuperset(CONFIG_TYPES)
        try:
            # In a thread, since it may take seconds and reads the files that routes name.
            compiled = await asyncio.to_thread(compile_now, current, before, entities_ready)
        except ConfigRejected as rejected:
            reporter.rejected(rejected)
        else:
            latest.set(replace(compiled, whole=whole))
            reporter.compiled(compiled)


async def _watching(files: _Files, records: _Records, clock: Clock) -> None:
    """Have everything compiled again when a file is another, for ever."""
    while True:
        await clock.sleep(FILES_SECONDS)
        if await asyncio.to_thread(files.changed):
            records.changed.set()


class _Reporter:
    """Says what is wrong: in the log once per fault, in the health check for as long as it lasts."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._logged: frozenset[str] = frozenset()

    def rejected(self, rejected: ConfigRejected) -> None:
        log.error("configuration rejected", reason=str(rejected))
        self._health.failed(Check.CONFIG_BUILD, str(rejected))

    def compiled(self, compiled: Compiled) -> None:
        self._log(compiled.faults)
        serious = [fault for fault in compiled.faults if not fault.warning]
        attributes = {"faults": str(len(compiled.faults)), "digest": compiled.snapshot.digest}
        for fault in (*serious, *(fault for fault in compiled.faults if fault.warning))[:REPORTED_FAULTS]:
            attributes[f"fault.{fault.id}"] = str(fault)
        if not serious:
            self._health.running(Check.CONFIG_BUILD, **attributes)
            return
        lines = [str(fault) for fault in serious[:REPORTED_FAULTS]]
        if len(serious) > len(lines):
            lines.append(f"and {len(serious) - len(lines)} more")
        self._health.failed(Check.CONFIG_BUILD, "\n".join(lines), attributes)

    def _log(self, faults: Sequence[Fault]) -> None:
        for fault in faults:
            if fault.id not in self._logged:
                log.warning(
                    "configuration fault",
                    fault=fault.id,
                    subject=fault.subject,
                    field=fault.field,
                    reason=fault.reason,
                    remedy=fault.remedy,
                    record=fault.record_id,
                    serves=fault.warning,
                )
        self._logged = frozenset(fault.id for fault in faults)


def _following(backend: Backend, type: str, records: _Records, health: Health) -> Callable[[], Awaitable[None]]:
    async def run() -> None:
        async with aclosing(follow(backend, type, health=health)) as changes:
            async for change in changes:
                if isinstance(change, Reset):
                    records.replace(type, change.records)
                else:
                    records.update(change.record)

    return run


async def _supervised(name: str, run: Callable[[], Awaitable[None]], clock: Clock) -> None:
    await supervise(name, run, clock=clock, backoff=patient())
