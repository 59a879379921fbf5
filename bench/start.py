"""How long a replica takes to serve: from the start of its keeper, and of a new agent after one was killed."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.envoys import run_upstream
from bench.kernel import cpu_seconds, memory_mb
from bench.load import median
from bench.probe import probing
from bench.report import Column, Section
from bench.sized import PATIENCE, POLL, Sized, ads_counters, open_sized, settled
from pomerium_agent.demo.playground import ReplicaAt


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One replica, started and bereft of its agent once. Seconds, MB."""

    first_200: float
    agent_cpu: float
    envoy_cpu: float
    keeper_mb: float
    agent_mb: float
    envoy_mb: float
    successor: float  # agent killed → another one has its configuration in force
    resent: int
    failed: int


async def bench_start(directory: Path, sizes: Sequence[int], rounds: int, say: Callable[[str], None]) -> Section:
    """One row per number of routes."""
    rows = []
    async with run_upstream(directory) as upstream:
        for size in sizes:
            async with open_sized(directory, size, upstream) as sized:
                await sized.apply("first")
                runs = []
                for number in range(rounds):
                    say(f"{size} routes, start {number + 1} of {rounds}")
                    runs.append(await _start(sized, f"r{number}"))
            rows.append(
                [
                    size,
                    *(
                        median([getattr(run, name) for run in runs])
                        for name in (
                            *("first_200", "agent_cpu", "envoy_cpu", "keeper_mb", "agent_mb", "envoy_mb"),
                            *("successor", "resent"),
                        )
                    ),
                    sum(run.failed for run in runs),
                ]
            )
    return Section(
        name="start",
        title="start of a replica to its first 200; then its agent is killed (-9) under requests",
        columns=(
            Column("routes", "d"),
            Column("first 200 s", ".2f"),
            Column("agent CPU s", ".2f"),
            Column("envoy CPU s", ".2f"),
            Column("keeper MB"),
            Column("agent MB"),
            Column("envoy MB"),
            Column("successor s", ".2f"),
            Column("resent", ".0f"),
            Column("failed", "d"),
        ),
        rows=rows,
        notes=(
            "successor: until another agent has the same configuration in force; resent: resources it sent to Envoy.",
            "failed: requests on a public route meanwhile, which need no agent.",
        ),
    )


async def _start(sized: Sized, name: str) -> Start:
    began = time.time()
    async with sized.cluster.replica(name, wait=False) as replica, probing(replica.port, sized.host) as probe:
        first_200 = await probe.until("first") - began
        digest = await settled(replica, routes=sized.size)
        pids = await replica.pids()
        agent_cpu, envoy_cpu = cpu_seconds(pids["agent"]), cpu_seconds(pids["envoy"])
        memory = {each: memory_mb(pid) for each, pid in pids.items()}
        failed_before = probe.failures

        killed = time.time()
        os.kill(pids["agent"], signal.SIGKILL)
        await _succeeded(replica, pids["agent"], digest)
        return Start(
            first_200=first_200,
            agent_cpu=agent_cpu,
            envoy_cpu=envoy_cpu,
            keeper_mb=memory["keeper"],
            agent_mb=memory["agent"],
            envoy_mb=memory["envoy"],
            successor=time.time() - killed,
            resent=await _sent(replica),
            failed=probe.failures - failed_before,
        )


async def _succeeded(replica: ReplicaAt, agent_pid: int, digest: str) -> None:
    """Wait until another agent says that the same configuration is in force."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                status = await replica.status()
            except (OSError, aiohttp.ClientError, TimeoutError):
                status = {}  # there is none right now
            config, pids = status.get("config"), status.get("pids")
            match config, pids:
                case {"in_force": found}, {"agent": pid} if found == digest and pid != agent_pid:
                    return
            await asyncio.sleep(POLL)


async def _sent(replica: ReplicaAt) -> int:
    """Resources that the present agent has sent to Envoy."""
    return sum(n for name, n in (await ads_counters(replica)).items() if name.endswith("_sent"))
