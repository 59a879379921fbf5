"""A served store for the tests of the service, and how its calls end."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from pomerium_agent.databroker import MemoryBackend
from pomerium_agent.databroker.service import Limits
from pomerium_agent.databroker.service.streams import USUAL
from pomerium_agent.databroker.service.token import sign
from pomerium_agent.records import Record
from tests.contract.stores import SOON
from tests.fakes.clock import ManualClock
from tests.fakes.databroker_wire import WireClient, wire_client
from tests.fakes.remote_backend import FAR_AWAY, KEY, served


@asynccontextmanager
async def open_wire(
    *records: Record, limits: Limits = USUAL, options: Mapping[str, Any] | None = None
) -> AsyncIterator[tuple[WireClient, MemoryBackend, ManualClock]]:
    """A client with a good token, the store behind the service, and its clock."""
    clock = ManualClock()
    backend = MemoryBackend(clock)
    await backend.put(records)
    async with (
        served(backend, clock, limits=limits) as service,
        wire_client(f"127.0.0.1:{service.port.value}", lambda: sign(KEY, FAR_AWAY), options=options) as wire,
    ):
        yield wire, backend, clock


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a call or stream ends that must not end well."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _to_the_end(call)
    return refused.value.code(), refused.value.details() or ""


async def _to_the_end(call: Any) -> None:
    async with asyncio.timeout(SOON):
        if not hasattr(call, "__aiter__"):
            await call
            return
        async for _ in call:
            pass
