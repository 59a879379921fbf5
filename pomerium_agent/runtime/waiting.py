"""Waiting for one of several things, and for what must not be left half-way."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from pomerium_agent.runtime.latest import Latest

T = TypeVar("T")


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Return when the first of `waits` does, and end the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait) for wait in waits]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


async def in_thread_to_the_end(work: Callable[[], T], *, patience: float = 5.0) -> T:
    """What `work` returns, in a thread. Whoever cancels this waits for its end, for at most `patience` seconds.

    A thread cannot be cancelled. Writing a file in one that is merely left alone, it might write later than whoever
    comes next, who wrote something newer.
    """
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait({future}, timeout=patience)
        if future.done() and not future.cancelled():
            future.exception()  # seen: nobody is there any more to be told
        raise


async def until_is(cell: Latest[T], wanted: T) -> None:
    """Return once the cell holds `wanted`."""
    async with aclosing(cell.follow()) as values:
        async for value in values:
            if value == wanted:
                return
