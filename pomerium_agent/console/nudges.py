"""Who must be told what: for each cluster, one cell with the numbers that make its replicas fetch something again."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from pomerium_agent.console.store import Cluster, Store
from pomerium_agent.pb.pomerium import connect_pb2
from pomerium_agent.runtime.latest import Latest


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a cluster is at. `generation` of its token, 0 when the cluster is gone."""

    version: int
    accounts_version: int
    bootstrap_version: int
    generation: int
    old_generation: int = 0  # of the token before, which is good until then
    old_until: datetime | None = None
    asked: int = 0  # how often telemetry was asked for
    wanted: bytes = b""  # the telemetry request itself

    @staticmethod
    def of(cluster: Cluster | None) -> "Numbers":
        if cluster is None:
            return Numbers(0, 0, 0, 0)
        numbers = (cluster.version, cluster.accounts_version, cluster.bootstrap_version, cluster.generation)
        old = cluster.old_token
        return Numbers(*numbers, old.generation, old.until) if old else Numbers(*numbers)

    def seconds_good(self, generation: int, now: datetime) -> float:
        """How long a token of this generation is still good, as far as is known now."""
        if generation == self.generation:
            return math.inf
        if generation != self.old_generation or self.old_until is None:
            return 0.0
        return max((self.old_until - now).total_seconds(), 0.0)

    def messages_since(self, before: "Numbers") -> Iterator[connect_pb2.Message]:
        """What a replica is told that knows of `before` (zero link 6.1)."""
        if self.bootstrap_version != before.bootstrap_version:
            yield connect_pb2.Message(bootstrap_config_updated=connect_pb2.BootstrapConfigUpdated())
        if (self.version, self.accounts_version) != (before.version, before.accounts_version):
            yield connect_pb2.Message(config_updated=connect_pb2.ConfigUpdated(changeset_version=self.version))
        if self.asked != before.asked:
            request = connect_pb2.TelemetryRequest.FromString(self.wanted)
            yield connect_pb2.Message(telemetry_request=request)


class Nudges:
    """The cells. They are filled from the store: once when first asked for, then after every poke."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cells: dict[str, Latest[Numbers]] = {}
        self._looks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def cell(self, cluster_id: str) -> Latest[Numbers]:
        """The cell of one cluster."""
        if cluster_id not in self._cells:
            numbers = Numbers.of(await asyncio.to_thread(self._store.find, cluster_id))
            self._cells.setdefault(cluster_id, Latest(numbers))
        return self._cells[cluster_id]

    async def cell_for(self, cluster_id: str, generation: int) -> Latest[Numbers]:
        """The cell, which knows of a token of this generation when there is one, poked or not."""
        cell = await self.cell(cluster_id)
        if cell.value.generation < generation:
            await self.refresh(cluster_id)
        return cell

    async def refresh(self, cluster_id: str) -> None:
        """Look again at one cluster, and wake its streams when something is new."""
        cell = await self.cell(cluster_id)
        async with self._looks[cluster_id]:  # or a slow look would replace what a later one has found
            found = Numbers.of(await asyncio.to_thread(self._store.find, cluster_id))
            numbers = replace(found, asked=cell.value.asked, wanted=cell.value.wanted)
            if numbers != cell.value:
                cell.set(numbers)

    async def ask_telemetry(self, cluster_id: str, wanted: connect_pb2.TelemetryRequest) -> None:
        """Have every connected replica of a cluster send its metrics (zero link 14)."""
        cell = await self.cell(cluster_id)
        cell.set(replace(cell.value, asked=cell.value.asked + 1, wanted=wanted.SerializeToString()))

    async def refresh_all(self) -> None:
        """Look again at every cluster that somebody listens for."""
        for cluster_id in tuple(self._cells):
            await self.refresh(cluster_id)
