"""`make bench`, which is `python -m bench`: every section in turn, progress on stderr, the report on stdout."""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.apply import bench_apply
from bench.authz import bench_authz
from bench.build import bench_build
from bench.check import bench_check
from bench.databroker import bench_databroker
from bench.decide import bench_decide
from bench.growth import draw_growth
from bench.kernel import machine
from bench.proxy import bench_proxy
from bench.report import Section
from bench.start import bench_start

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured."""

    sizes: Sequence[int]
    rounds: int
    seconds: float  # of load at a time


FULL = Effort(sizes=(10, 1_000, 10_000), rounds=5, seconds=2.0)
QUICK = Effort(sizes=(10, 1_000), rounds=2, seconds=0.5)


async def proxy(place: Path, effort: Effort, say: Say) -> list[Section]:
    return [await bench_proxy(place, effort.rounds, effort.seconds, say)]


async def check(place: Path, effort: Effort, say: Say) -> list[Section]:
    return [await bench_check(place, effort.rounds, effort.seconds, say)]


async def decide(_place: Path, effort: Effort, say: Say) -> list[Section]:
    return [await asyncio.to_thread(bench_decide, effort.rounds, say)]


async def authz(place: Path, effort: Effort, say: Say) -> list[Section]:
    return await bench_authz(place, effort.rounds, effort.seconds, say)


async def build(_place: Path, effort: Effort, say: Say) -> list[Section]:
    say(", ".join(f"{size} routes" for size in effort.sizes))
    return [await asyncio.to_thread(bench_build, effort.sizes)]


async def start(place: Path, effort: Effort, say: Say) -> list[Section]:
    return [await bench_start(place, effort.sizes, min(effort.rounds, 3), say)]


async def apply(place: Path, effort: Effort, say: Say) -> list[Section]:
    return await bench_apply(place, effort.sizes, effort.rounds, say)


async def databroker(place: Path, effort: Effort, say: Say) -> list[Section]:
    sizes = (10_000, 100_000) if effort is FULL else (1_000, 10_000)
    return await bench_databroker(place, sizes, effort.seconds, say)


SECTIONS: Mapping[str, Callable[[Path, Effort, Say], Awaitable[list[Section]]]] = {
    "proxy": proxy,
    "check": check,
    "decide": decide,
    "authz": authz,
    "build": build,
    "start": start,
    "apply": apply,
    "databroker": databroker,
}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="What must stay fast, as ratios in one run.")
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"{', '.join(SECTIONS)}; all of them if none")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and no 10,000 routes: about a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw the growth of `apply` with the routes")
    options = parser.parse_args()
    unknown = [name for name in options.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"no section is called {', '.join(unknown)}; there are: {', '.join(SECTIONS)}")
    chosen = [name for name in SECTIONS if name in options.sections or not options.sections]
    if options.svg and "apply" not in chosen:
        parser.error("--svg draws what the section apply finds: name it too")
    effort = QUICK if options.quick else FULL
    about = machine()
    print(about, flush=True)
    found = asyncio.run(_measure(chosen, effort))
    if options.json:
        options.json.write_text(
            json.dumps({"machine": about, **{section.name: section.to_json() for section in found}}, indent=2) + "\n"
        )
    if options.svg:
        options.svg.write_text(draw_growth(found))


async def _measure(chosen: Sequence[str], effort: Effort) -> list[Section]:
    """One section after the other, each in a folder of its own that is gone afterwards, whatever happens."""
    task = asyncio.current_task()
    assert task is not None  # we are in it
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    found: list[Section] = []
    began = time.monotonic()
    for name in chosen:

        def say(text: str, name: str = name) -> None:
            print(f"[{time.monotonic() - began:5.0f} s] {name}: {text}", file=sys.stderr, flush=True)

        # In /tmp and short: the paths of unix sockets may not be longer than 107 bytes.
        place = Path(tempfile.mkdtemp(prefix="pb-", dir="/tmp"))
        try:
            sections = await SECTIONS[name](place, effort, say)
        finally:
            shutil.rmtree(place)
        for section in sections:
            print("\n" + "\n".join(section.lines()), flush=True)
        found += sections
    return found


if __name__ == "__main__":
    main()
