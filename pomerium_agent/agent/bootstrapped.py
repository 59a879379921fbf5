"""What the agent needs of the bootstrap, part by part: a change of one leaves what stands on the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import structlog

from pomerium_agent.runtime.latest import Latest
from pomerium_agent.zero import BootstrapConfig, Link

log = structlog.get_logger(__name__)


@asynccontextmanager
async def bootstrapped(link: Link) -> AsyncIterator[tuple[Latest[str | None], Latest[bytes]]]:
    """Where records live and what the cluster shares, as the newest bootstrap says; waits for the first (Z-8, Z-25)."""
    bootstrap = await _first_bootstrap(link)
    storage, shared_secret = Latest(bootstrap.storage_connection), Latest(bootstrap.shared_secret)

    async def follow() -> None:
        async for newest in link.bootstrap.follow():
            if newest is not None and newest.shared_secret != shared_secret.value:
                log.warning("the cluster has a new shared secret: everybody has to log in anew")
                shared_secret.set(newest.shared_secret)
            if newest is not None and newest.storage_connection != storage.value:
                storage.set(newest.storage_connection)

    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow(), name="bootstrap")
        try:
            yield storage, shared_secret
        finally:
            following.cancel()


async def _first_bootstrap(link: Link) -> BootstrapConfig:
    """Who we are; waits for the file or the control plane to tell (Z-8)."""
    async with aclosing(link.bootstrap.follow()) as bootstraps:
        async for bootstrap in bootstraps:
            if bootstrap is not None:
                return bootstrap
    raise AssertionError("a Latest never ends")
