"""Constant traffic through one replica, of which nothing may fail: every answer that is not the one wanted is kept."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from pomerium_agent.runtime.latest import Latest

Visit = tuple[str, Mapping[str, str]]  # where, and with which headers


@dataclass(slots=True)
class Traffic:
    """What was sent, and what came back that should not have."""

    failed: list[str] = field(default_factory=list)
    _count: Latest[int] = field(default_factory=lambda: Latest(0))

    @property
    def sent(self) -> int:
        return self._count.value

    def answered(self) -> None:
        self._count.set(self.sent + 1)

    async def more(self, count: int = 20) -> None:
        """Return once that many more were answered; raises TimeoutError when they are not."""
        wanted = self.sent + count
        async with asyncio.timeout(30):
            async for sent in self._count.follow():
                if sent >= wanted:
                    return


@asynccontextmanager
async def traffic(client: aiohttp.ClientSession, *visits: Visit, pause: float = 0.03) -> AsyncIterator[Traffic]:
    """Ask for each (url, headers) over and over, on a kept connection and on new ones, until the block ends."""
    seen = Traffic()

    async def visit(url: str, headers: Mapping[str, str], *, anew: bool) -> None:
        while True:
            try:
                asked = {**headers, "connection": "close"} if anew else headers
                async with client.get(url, headers=asked, allow_redirects=False) as response:
                    text = await response.text()
                    if response.status != 200:
                        seen.failed.append(f"{url}: {response.status} {text[:200]}")
            except (OSError, aiohttp.ClientError, TimeoutError) as error:
                seen.failed.append(f"{url}: {error!r}")
            seen.answered()
            await asyncio.sleep(pause)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(visit(*each, anew=anew)) for each in visits for anew in (False, True)]
        yield seen
        for task in tasks:
            task.cancel()
