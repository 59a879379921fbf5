"""A service that runs under one value after the other."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from pomerium_agent.runtime.latest import Latest

T = TypeVar("T")


async def rerun_on_change(cell: Latest[T], run: Callable[[T], Awaitable[None]]) -> None:
    """Run `run` with the present value; when another one comes, cancel that run, wait for its end, and run anew.

    A run that returns is over until the next value. Raises what `run` raises, inside an exception group.
    """

    async def one(value: T) -> None:
        await run(value)

    async def another_than(value: T) -> None:
        async for newest in cell.follow():
            if newest != value:
                return

    while True:
        value = cell.value
        async with asyncio.TaskGroup() as group:
            task = group.create_task(one(value))
            await another_than(value)
            task.cancel()
