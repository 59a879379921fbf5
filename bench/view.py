"""`python -m bench.view DIRECTORY`: what the live view of the sessions in a file store takes, as JSON."""

import asyncio
import gc
import json
import os
import sys
import time

from bench.kernel import memory_mb
from pomerium_agent.databroker.sqlite import open_sqlite
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.runtime.health import Health
from pomerium_agent.sessions.live import open_sessions


async def main(directory: str) -> None:
    clock = SystemClock()
    backend = await open_sqlite(f"file://{directory}", clock)
    before, began = memory_mb(os.getpid()), time.perf_counter()
    async with open_sessions(backend, clock, Health()) as sessions:
        while not sessions.loaded:  # noqa: ASYNC110  # it tells requests, not us
            await asyncio.sleep(0.005)
        seconds = time.perf_counter() - began
        gc.collect()
        print(json.dumps({"seconds": seconds, "mb": memory_mb(os.getpid()) - before, "sessions": len(sessions)}))
    await backend.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
