"""From records to Envoy resources in this process: how time grows with the number of routes, and what a change costs."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

import certifi

from bench.sizes import records
from pomerium_agent.config import CompileCache, compile_snapshot
from pomerium_agent.envoyconfig import BuildCache, LocalAddresses, build_resources

SIZES = (10, 1_000, 10_000)
T = TypeVar("T")


def bench_build() -> list[str]:
    """Lines of the report: milliseconds, and what ten times as many routes cost."""
    with open(certifi.where()) as file:  # noqa: PTH123  # one small file
        system_ca = file.read()
    local = LocalAddresses(authorize_socket="/a", pages_socket="/p", system_ca=system_ca)
    now = datetime.now(UTC)
    lines = [
        f"{'routes':>8}{'compile ms':>12}{'build ms':>10}{'one change: compile':>21}{'build':>8}{'share of whole':>16}"
    ]
    per_route: dict[int, float] = {}
    for size in SIZES:
        before, after = records(size), records(size, changed=True)
        compiling, building = CompileCache(), BuildCache()
        (first, _), compile_ms = timed(lambda: compile_snapshot(before, now=now, cache=compiling))  # noqa: B023  # called at once
        _, build_ms = timed(lambda: build_resources(first, local, building))  # noqa: B023  # called at once
        (second, _), change_ms = timed(lambda: compile_snapshot(after, now=now, cache=compiling, previous=first))  # noqa: B023  # called at once
        _, rebuild_ms = timed(lambda: build_resources(second, local, building))  # noqa: B023  # called at once
        whole, change = compile_ms + build_ms, change_ms + rebuild_ms
        per_route[size] = whole / size
        lines.append(
            f"{size:>8}{compile_ms:>12.1f}{build_ms:>10.1f}{change_ms:>21.1f}{rebuild_ms:>8.1f}{change / whole:>15.1%} "
        )
    growth = per_route[SIZES[-1]] / per_route[SIZES[1]]
    lines.append(f"cost of a route at {SIZES[-1]} against {SIZES[1]}: {growth:.2f} (1.00 is linear)")
    return lines


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result, and how many milliseconds it took."""
    began = time.perf_counter()
    result = work()
    return result, 1000 * (time.perf_counter() - began)
