"""Work in lanes: each identity provider has its own, so that one that is slow keeps nobody else waiting."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Job = TypeVar("Job")


class Lanes(Generic[Job]):
    """Runs `run` for each job, in the order of its lane and at most `width` of one lane at a time."""

    def __init__(self, group: asyncio.TaskGroup, run: Callable[[Job], Awaitable[None]], *, width: int) -> None:
        self._group = group
        self._run = run
        self._width = width
        self._waiting: dict[str, deque[Job]] = {}
        self._workers: dict[str, int] = {}

    def put(self, lane: str, job: Job) -> None:
        """Have it done when its turn comes; whoever puts in sees to it that no job is in twice."""
        self._waiting.setdefault(lane, deque()).append(job)
        if self._workers.get(lane, 0) < self._width:
            self._workers[lane] = self._workers.get(lane, 0) + 1
            self._group.create_task(self._work(lane))

    async def _work(self, lane: str) -> None:
        waiting = self._waiting[lane]
        while waiting:
            await self._run(waiting.popleft())
        self._workers[lane] -= 1
        if not self._workers[lane]:
            del self._workers[lane], self._waiting[lane]
