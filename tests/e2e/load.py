"""A steady stream of requests, and what it has seen."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from pomerium_agent.demo.playground import ReplicaAt
from tests.e2e.world import World, eventually

GONE = (OSError, aiohttp.ClientError, TimeoutError)


@dataclass(slots=True)
class Load:
    """What a steady stream of requests has seen."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)

    async def some(self) -> None:
        """Wait for fifty more answers."""
        until = self.answered + 50

        async def enough() -> bool:
            return self.answered >= until

        await eventually("the load goes on", enough)


@asynccontextmanager
async def load(
    world: World, replica: ReplicaAt, host: str, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Load]:
    """Four clients that ask one after the other for as long as the block lasts."""
    seen = Load()

    async def ask() -> None:
        while True:
            try:
                answer = await world.get(replica, host, headers=headers or {})
                if answer.status != 200:
                    seen.failures.append(f"status {answer.status}")
            except GONE as error:
                seen.failures.append(repr(error))
            seen.answered += 1

    async with asyncio.TaskGroup() as group:
        clients = [group.create_task(ask()) for _ in range(4)]
        yield seen
        for client in clients:
            client.cancel()


async def answers(world: World, replica: ReplicaAt, host: str) -> bool:
    return (await world.get(replica, host)).status == 200
