"""A console whose one cluster has so many routes, and how its replicas are watched."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bench import sizes
from bench.kernel import children_cpu_seconds
from pomerium_agent.demo.playground import Cluster, ReplicaAt, open_cluster
from pomerium_agent.demo.processes import base_environment
from pomerium_agent.errors import SettingsError

PATIENCE = 180.0
POLL = 0.1  # each look costs the agent a millisecond, and it is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """One `console apply`: when it began, when the console had been told, when it ended (time.time()), and its CPU."""

    began: float
    told: float
    ended: float
    cpu: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True, slots=True, kw_only=True)
class Sized:
    """A cluster of `size` routes, all to one upstream."""

    cluster: Cluster
    size: int
    upstream: int

    @property
    def host(self) -> str:
        """The host of the route that changes."""
        return sizes.marked_host(self.size, self.cluster.domain)

    async def apply(self, mark: str) -> Applied:
        """Apply a file that differs from all others in one header of one route."""
        text = sizes.file(self.size, self.cluster.domain, self.upstream, mark=mark)
        file = self.cluster.directory / "bench.yaml"
        await asyncio.to_thread(file.write_text, text)
        place = str(self.cluster.console.data_dir)
        cpu = children_cpu_seconds()
        began = time.time()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pomerium_agent", "console", "apply"),
            *("-f", str(file), "--cluster", self.cluster.name, "--data-dir", place),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            # Unbuffered: its first line comes the moment the console has been told.
            env=base_environment() | {"PYTHONUNBUFFERED": "1"},
        )
        assert process.stdout is not None  # it is a pipe
        await process.stdout.readline()
        told = time.time()
        await process.stdout.read()
        if await process.wait():
            raise SettingsError("console apply failed; what it complained of is above")
        return Applied(began=began, told=told, ended=time.time(), cpu=children_cpu_seconds() - cpu)


@asynccontextmanager
async def open_sized(directory: Path, size: int, upstream: int) -> AsyncIterator[Sized]:
    """A console of its own in a new folder of `directory`, and nothing applied yet."""
    place = directory / f"s{size}"
    await asyncio.to_thread(place.mkdir)
    async with open_cluster(place, "bench") as cluster:
        yield Sized(cluster=cluster, size=size, upstream=upstream)


async def settled(replica: ReplicaAt, *, routes: int, other_than: str = "") -> str:
    """Wait until Envoy has all of a configuration with so many routes, other than the one named; its digest."""
    async with asyncio.timeout(PATIENCE):
        while True:
            config = (await replica.status())["config"]
            assert isinstance(config, dict)  # our own status
            digest = str(config["in_force"])
            if config["routes"] == routes and digest == config["offered"] and digest not in ("", other_than):
                return digest
            await asyncio.sleep(POLL)  # another process: there is nothing to be woken by


async def ads_counters(replica: ReplicaAt) -> Mapping[str, int]:
    """What the agent has sent to Envoy so far."""
    found = (await replica.status())["ads"]
    assert isinstance(found, dict)  # our own status
    return found


def said(replica: ReplicaAt, event: str, *, after: float) -> float:
    """When the agent first logged `event` after a time; that time itself if it never did."""
    for line in replica.running.log.read_text(errors="replace").splitlines():
        if f'"{event}"' not in line:
            continue
        try:
            at = datetime.fromisoformat(json.loads(line)["time"]).timestamp()
        except (ValueError, KeyError):
            continue
        if at >= after:
            return at
    return after
