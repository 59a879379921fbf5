"""From records to Envoy resources in one process: how time grows with the routes, and what a change costs."""

import itertools
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import certifi

from bench.load import median
from bench.report import Cell, Column, Section
from bench.sizes import records
from pomerium_agent.config import CompileCache, compile_snapshot
from pomerium_agent.envoyconfig import BuildCache, LocalAddresses, build_resources

ROUNDS = 3
T = TypeVar("T")


def bench_build(sizes: Sequence[int]) -> Section:
    """Milliseconds for all, and for a change of one route."""
    local = LocalAddresses(authorize_socket="/a", pages_socket="/p", system_ca=Path(certifi.where()).read_text())
    rows: list[list[Cell]] = []
    whole: dict[int, float] = {}
    for size in sizes:
        runs = [_measure(size, local) for _ in range(ROUNDS)]
        first_compile, first_build, compile_ms, build_ms = (median(column) for column in zip(*runs, strict=True))
        whole[size] = first_compile + first_build
        share = (compile_ms + build_ms) / whole[size]
        rows.append([size, first_compile, first_build, compile_ms, build_ms, share])
    return Section(
        name="build",
        title="records to snapshot (compile) to Envoy resources (build), in one process",
        columns=(
            Column("routes", "d"),
            Column("all: compile ms"),
            Column("build ms"),
            Column("one change: compile ms"),
            Column("build ms "),
            Column("change/all", ".1%"),
        ),
        rows=rows,
        ratios={
            f"time per route, {b} routes against {a} (1 is linear)": (whole[b] / b) / (whole[a] / a)
            for a, b in itertools.pairwise(sizes)
        },
    )


def _measure(size: int, local: LocalAddresses) -> tuple[float, float, float, float]:
    now = datetime.now(UTC)
    before, after = records(size), records(size, mark="changed")
    compiling, building = CompileCache(), BuildCache()
    (first, _), first_compile = timed(lambda: compile_snapshot(before, now=now, cache=compiling))
    _, first_build = timed(lambda: build_resources(first, local, building))
    (second, _), compile_ms = timed(lambda: compile_snapshot(after, now=now, cache=compiling, previous=first))
    _, build_ms = timed(lambda: build_resources(second, local, building))
    return first_compile, first_build, compile_ms, build_ms


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result, and how many milliseconds it took."""
    began = time.perf_counter()
    result = work()
    return result, 1000 * (time.perf_counter() - began)
