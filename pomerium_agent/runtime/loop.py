"""The event loop that the agent runs on: uvloop's where it is installed, else the standard one."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run_on_best_loop(work: Coroutine[Any, Any, Result]) -> Result:
    """As asyncio.run."""
    # What was imported stays to the end. Looking through it for garbage takes some 50 ms, in which nobody is answered.
    gc.freeze()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    found: Callable[[], asyncio.AbstractEventLoop] = new_event_loop
    return found
