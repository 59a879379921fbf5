"""Who runs the identity manager: one replica at a time, and another soon after it died."""

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta

from pomerium_agent.authenticate.manager import run_identity_manager
from pomerium_agent.authenticate.manager.run import LEASE
from pomerium_agent.errors import DatabrokerUnavailable
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from tests.fakes.clock import settle
from tests.unit.authenticate.managing import Managing, managing, until
from tests.unit.sessions.stage import CuttableBackend

TTL = timedelta(seconds=30)


def role(health: Health) -> str:
    return health.reports[Check.IDENTITY_MANAGER].attributes.get("role", "")


async def start(stack: AsyncExitStack, at: Managing, health: Health) -> None:
    await stack.enter_async_context(
        run_identity_manager(
            stores=Latest(at.backend), site=at.site, providers=at.scene.providers, clock=at.clock, health=health
        )
    )
    await settle(100)


def refreshes(at: Managing) -> int:
    return sum(asked.form.get("grant_type") == "refresh_token" for asked in at.idp.of("/token"))


async def test_of_two_replicas_one_works_and_the_other_takes_over_when_it_leaves() -> None:
    """N-34."""
    async with managing() as at:
        await at.log_in()
        first, second = Health(), Health()
        async with AsyncExitStack() as replicas:
            async with AsyncExitStack() as one:
                await start(one, at, first)
                await start(replicas, at, second)
                assert (role(first), role(second)) == ("active", "standby")
                await at.clock.advance(3545)
                await until(lambda: refreshes(at) == 1)
                await asyncio.sleep(0.05)
                await at.clock.advance(60)
                assert (role(first), role(second)) == ("active", "standby")
            assert role(first) == "standby"
            await at.clock.advance(15)
            assert role(second) == "active"
        assert refreshes(at) == 1


async def test_a_replica_that_died_is_followed_within_45_seconds() -> None:
    """N-34: its lease was just renewed, and nobody gave it back."""
    async with managing() as at, AsyncExitStack() as replicas:
        assert await at.backend.lease(LEASE, "died", TTL)
        health = Health()
        await start(replicas, at, health)
        await at.clock.advance(29)
        assert role(health) == "standby"
        await at.clock.advance(16)
        assert role(health) == "active"


async def test_without_the_lease_nothing_is_done() -> None:
    """N-34: a lease that cannot be renewed stops the work before another may begin."""
    async with managing() as at, AsyncExitStack() as replicas:
        await at.log_in()
        health = Health()
        line = Line(at.clock)
        at.backend = line
        await at.log_in()
        await start(replicas, at, health)
        assert role(health) == "active"
        line.silent = True
        await at.clock.advance(29)
        assert role(health) == "standby"
        await at.clock.advance(3600)
        await asyncio.sleep(0.05)
        assert refreshes(at) == 0
        line.silent = False
        await at.clock.advance(60)
        assert role(health) == "active"
        await until(lambda: refreshes(at) == 1)


class Line(CuttableBackend):
    """Leases cannot be asked for while it is silent."""

    silent = False

    async def lease(self, name: str, holder: str, ttl: timedelta) -> bool:
        if self.silent:
            raise DatabrokerUnavailable("no answer")
        return await super().lease(name, holder, ttl)
