"""The clients under test, opened against a fake control plane."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from pomerium_agent.records import Payload, Record
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.zero.api import PATIENCE, ClusterApi, Patience
from pomerium_agent.zero.bundles import Downloader, DownloadUrls
from pomerium_agent.zero.identity import Identity
from tests.fakes.clock import ManualClock
from tests.fakes.control_plane import TOKEN, FakeControlPlane

IMPATIENT = Patience(connect=1.0, read=0.1, total=0.3, exchange=0.3, download=0.3)
IDENTITY = Identity(
    instance="instance-1",
    hostname="host-1",
    version="0.37.0+test",
    envoy_version="1.40.0",
    user_agent="pomerium-agent/test",
)


@asynccontextmanager
async def open_api(
    plane: FakeControlPlane, *, clock: Clock | None = None, patience: Patience = PATIENCE
) -> AsyncIterator[ClusterApi]:
    """A client of the cluster API of `plane`."""
    async with aiohttp.ClientSession() as session:
        yield ClusterApi(
            session, f"{plane.http_url}/v1", TOKEN, IDENTITY, clock=clock or ManualClock(), patience=patience
        )


@asynccontextmanager
async def open_downloader(
    plane: FakeControlPlane, *, clock: Clock | None = None, patience: Patience = PATIENCE, max_bytes: int = 10**6
) -> AsyncIterator[tuple[ClusterApi, Downloader]]:
    """The same, and a downloader beside it."""
    clock = clock or ManualClock()
    async with (
        open_api(plane, clock=clock, patience=patience) as api,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        urls = DownloadUrls(api, clock)
        yield api, Downloader(session, urls, IDENTITY, patience=patience, max_bytes=max_bytes)


def record(id: str, value: bytes = b"1", type: str = "type.googleapis.com/pomerium.config.Config") -> Record:
    """A record whose content does not matter."""
    return Record(type=type, id=id, data=Payload("type.googleapis.com/pomerium.config.Config", value))
