"""Waiting for one of several things."""

import asyncio
from collections.abc import Coroutine
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


async def until_is(cell: Latest[T], wanted: T) -> None:
    """Return once the cell holds `wanted`."""
    async with aclosing(cell.follow()) as values:
        async for value in values:
            if value == wanted:
                return
