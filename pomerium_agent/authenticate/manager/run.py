"""Who runs the identity manager: one replica at a time, by a lease."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from pomerium_agent.authenticate.manager.manager import Manager
from pomerium_agent.authenticate.manager.work import Work
from pomerium_agent.authenticate.site import Site
from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.leases import hold_lease
from pomerium_agent.idp.providers import Providers
from pomerium_agent.runtime.backoff import Backoff
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.rerun import rerun_on_change
from pomerium_agent.runtime.supervisor import supervise

LEASE = "identity_manager"
LEASE_TTL = timedelta(seconds=30)  # asked for, and renewed, at half of it: another takes over within 45 s (N-34)


@asynccontextmanager
async def run_identity_manager(
    *, stores: Latest[Backend], site: Latest[Site], providers: Providers, clock: Clock, health: Health
) -> AsyncIterator[None]:
    """Refresh and end sessions whenever this replica has the lease, while the block runs.

    It may be entered before there is a configuration: nothing is refreshed until `site` names providers.
    """

    async def leased(backend: Backend) -> None:
        work = Work(backend=backend, site=site, providers=providers, clock=clock)
        try:
            await Manager(backend=backend, site=site, clock=clock, health=health, work=work).run()
        finally:
            health.running(Check.IDENTITY_MANAGER, role="standby")

    async def under(backend: Backend) -> None:
        """In one store after the other: a lease counts in the store it was taken in (Z-25)."""

        async def hold() -> None:
            await hold_lease(backend, LEASE, LEASE_TTL, lambda: leased(backend), clock)

        await supervise("identity manager", hold, clock=clock, backoff=Backoff(cap=10.0))

    health.running(Check.IDENTITY_MANAGER, role="standby")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(rerun_on_change(stores, under))
        try:
            yield
        finally:
            task.cancel()
