"""From `console apply` to live: a change of one route among many, what each part takes, and what memory it needs."""

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.envoys import run_upstream
from bench.kernel import cpu_seconds, memory_mb
from bench.load import median
from bench.probe import Probe, probing
from bench.report import Cell, Column, Section
from bench.sized import Sized, ads_counters, open_sized, said, settled
from pomerium_agent.demo.playground import ReplicaAt

IDLE_SECONDS = 5.0  # Envoy looks through its counters every five seconds
WATCHED = ("console", "agent", "envoy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change. Milliseconds; `cpu` is beyond what the process uses when nothing changes."""

    verb: float
    verb_cpu: float
    fetch: float  # the console was told → the agent has stored the records; less than nothing when that was quicker
    build: float  # → Envoy is offered the result; the time in which changes are gathered is in it
    envoy: float  # → a request sees it
    live: float  # the verb began → a request sees it
    cpu: Mapping[str, float]
    resources: int
    kilobytes: float

    @property
    def told_to_live(self) -> float:
        return self.fetch + self.build + self.envoy


@dataclass(frozen=True, slots=True, kw_only=True)
class AtSize:
    """What was seen at one number of routes."""

    size: int
    first_verb: float
    first_live: float  # ms, from an empty configuration to all routes
    changes: Sequence[Change]
    memory: Mapping[str, float]
    failures: int

    def mid(self, of: Callable[[Change], float]) -> float:
        return median([of(change) for change in self.changes])


async def bench_apply(directory: Path, sizes: Sequence[int], rounds: int, say: Callable[[str], None]) -> list[Section]:
    """Three tables: time, CPU and bytes, memory."""
    found: list[AtSize] = []
    async with run_upstream(directory) as upstream:
        for size in sizes:
            say(f"{size} routes")
            async with open_sized(directory, size, upstream) as sized:
                found.append(await _at(sized, rounds))
    return [_times(found), _costs(found), _memory(found)]


async def _at(sized: Sized, rounds: int) -> AtSize:
    cluster, size = sized.cluster, sized.size
    async with cluster.replica() as replica, probing(replica.port, sized.host) as probe:
        first = await sized.apply("first")
        first_live = await probe.until("first")
        digest = await settled(replica, routes=size)
        pids = dict(await replica.pids()) | {"console": cluster.console.running.pid}
        before = _cpu(pids)
        await asyncio.sleep(IDLE_SECONDS)
        idle = {name: (now - before[name]) / IDLE_SECONDS for name, now in _cpu(pids).items()}
        changes = []
        for number in range(rounds):
            change, digest = await _change(sized, replica, probe, pids, idle, digest, f"m{number}")
            changes.append(change)
        return AtSize(
            size=size,
            first_verb=1000 * first.seconds,
            first_live=1000 * (first_live - first.began),
            changes=changes,
            memory={name: memory_mb(pid) for name, pid in pids.items()},
            failures=probe.failures,
        )


async def _change(
    sized: Sized,
    replica: ReplicaAt,
    probe: Probe,
    pids: Mapping[str, int],
    idle: Mapping[str, float],
    digest: str,
    mark: str,
) -> tuple[Change, str]:
    counters, cpu, began = await ads_counters(replica), _cpu(pids), time.time()
    applied = await sized.apply(mark)
    live = await probe.until(mark)
    digest = await settled(replica, routes=sized.size, other_than=digest)
    took, after, sent = time.time() - began, _cpu(pids), await ads_counters(replica)
    stored = said(replica, "bundle applied", after=began)
    offered = said(replica, "configuration offered to envoy", after=stored)

    def more(ending: str) -> int:
        return sum(n - counters.get(name, 0) for name, n in sent.items() if name.endswith(ending))

    change = Change(
        verb=1000 * applied.seconds,
        verb_cpu=1000 * applied.cpu,
        fetch=1000 * (stored - applied.told),
        build=1000 * (offered - stored),
        envoy=1000 * (live - offered),
        live=1000 * (live - applied.began),
        cpu={name: 1000 * max(0.0, after[name] - cpu[name] - idle[name] * took) for name in WATCHED},
        resources=more("_sent"),
        kilobytes=more("_bytes") / 1024,
    )
    return change, digest


def _cpu(pids: Mapping[str, int]) -> dict[str, float]:
    return {name: cpu_seconds(pids[name]) for name in WATCHED}


def _times(found: Sequence[AtSize]) -> Section:
    return Section(
        name="apply",
        title="a change of one route, from `console apply` to a request that sees it; wall time in ms",
        columns=(
            Column("routes", "d"),
            Column("all at once: verb", ".0f"),
            Column("to live", ".0f"),
            Column("one change: verb", ".0f"),
            Column("told→stored", ".0f"),
            Column("→offered", ".0f"),
            Column("→live", ".0f"),
            Column("told→live", ".0f"),
            Column("whole", ".0f"),
            Column("failed", "d"),
        ),
        rows=[
            [
                at.size,
                at.first_verb,
                at.first_live,
                at.mid(lambda c: c.verb),
                at.mid(lambda c: c.fetch),
                at.mid(lambda c: c.build),
                at.mid(lambda c: c.envoy),
                at.mid(lambda c: c.told_to_live),
                at.mid(lambda c: c.live),
                at.failures,
            ]
            for at in found
        ],
        ratios=_growth(found, "told→live", lambda at: at.mid(lambda c: c.told_to_live))
        | _growth(found, "all at once to live", lambda at: at.first_live),
        notes=(
            "→offered includes the time in which changes are gathered: 100 ms, and 1 s beyond 5,000 routes.",
            "the verb is a process of its own; what it takes for 10 routes is mostly starting Python.",
        ),
    )


def _costs(found: Sequence[AtSize]) -> Section:
    rows: list[list[Cell]] = [
        [
            at.size,
            at.mid(lambda c: c.verb_cpu),
            *(at.mid(lambda c, name=name: c.cpu[name]) for name in WATCHED),  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
            at.mid(lambda c: c.resources),
            at.mid(lambda c: c.kilobytes),
        ]
        for at in found
    ]
    return Section(
        name="apply.cost",
        title="the same change: CPU in ms beyond idle, and what was sent to Envoy for it",
        columns=(
            Column("routes", "d"),
            Column("verb", ".0f"),
            Column("console", ".0f"),
            Column("agent", ".0f"),
            Column("envoy", ".0f"),
            Column("resources sent", ".0f"),
            Column("KiB sent"),
        ),
        rows=rows,
        ratios=_growth(found, "agent CPU", lambda at: at.mid(lambda c: c.cpu["agent"]))
        | _growth(found, "envoy CPU", lambda at: at.mid(lambda c: c.cpu["envoy"])),
    )


def _memory(found: Sequence[AtSize]) -> Section:
    return Section(
        name="memory",
        title="resident memory in MB, after the changes above",
        columns=(Column("routes", "d"), *(Column(name) for name in ("keeper", "agent", "envoy", "console"))),
        rows=[[at.size, *(at.memory[name] for name in ("keeper", "agent", "envoy", "console"))] for at in found],
        ratios={
            f"KiB per route beyond those at {a.size}, {name}, at {b.size}": 1024
            * (b.memory[name] - a.memory[name])
            / (b.size - a.size)
            for a, b in itertools.pairwise(found)
            for name in ("agent", "envoy")
        },
    )


def _growth(found: Sequence[AtSize], what: str, of: Callable[[AtSize], float]) -> dict[str, float]:
    return {f"{what}, {b.size} routes against {a.size}": of(b) / (of(a) or 1) for a, b in itertools.pairwise(found)}
