"""What the drill takes away, one thing after the other, and gives back."""

import asyncio
import signal

from bench.drill_login import almost_in, is_told, log_in
from bench.drill_world import CLUSTER, Drill
from pomerium_agent.demo.playground import visitor

IN_FLIGHT = 2  # requests that an agent may have taken and not answered when it is killed


async def faults(drill: Drill) -> None:
    """All of it, one after the other."""

    async def nothing() -> None:
        pass

    async def freeze() -> None:
        drill.signal_console(signal.SIGSTOP)

    async def thaw() -> None:
        drill.signal_console(signal.SIGCONT)

    async def console_and_agent() -> None:
        await drill.kill_console()
        await drill.kill("agent")

    async def console_and_replica() -> None:
        await drill.kill_console()
        await drill.restart()

    await rotations(drill)
    await provider_away(drill)
    await drill.fault("control plane: refuses connections", drill.kill_console, drill.start_console)
    await drill.fault("control plane: accepts and hangs", freeze, thaw)
    await drill.fault("agent of one: killed", lambda: drill.kill("agent"), nothing, may_fail=IN_FLIGHT)
    await drill.fault("envoy of one: killed", lambda: drill.kill("envoy"), nothing, may_fail=None)
    await drill.fault(
        "control plane away, agent of one killed", console_and_agent, drill.start_console, may_fail=IN_FLIGHT
    )
    await drill.fault("control plane away, one started anew", console_and_replica, drill.start_console, may_fail=None)
    postgres = drill.postgres
    if postgres is None:
        return

    async def stop_database() -> None:
        await asyncio.to_thread(postgres.stop, "immediate")

    async def start_database() -> None:
        await asyncio.to_thread(postgres.start)

    async def everything() -> None:
        await stop_database()
        await console_and_replica()

    async def everything_back() -> None:
        await start_database()
        await drill.start_console()

    await drill.fault("database: crashed", stop_database, start_database)
    await drill.fault("database and control plane away, one started anew", everything, everything_back, may_fail=None)


async def rotations(drill: Drill) -> None:
    """Another cluster token: replicas are given it at the end of each fault, from the file they look at."""
    tokens: list[str] = []

    async def with_overlap() -> None:
        tokens.append(await drill.rotate("1h"))

    async def move_and_end() -> None:
        await drill.hand_out(tokens[-1])
        await drill.cluster.verb("console", "cluster", "end-overlap", CLUSTER)

    async def without_overlap() -> None:
        tokens.append(await drill.rotate("0"))

    async def move() -> None:
        await drill.hand_out(tokens[-1])

    await drill.fault("token rotated with overlap", with_overlap, move_and_end)
    await drill.fault("token rotated without overlap, told to serve on", without_overlap, move)


async def provider_away(drill: Drill) -> None:
    """The identity provider: those who are in stay in, and who is about to come in is told."""
    name, url, ca_file = "identity provider: away", drill.url("one", "private"), drill.cluster.ca_file
    async with visitor(ca_file) as inside, visitor(ca_file) as outside:
        await log_in(inside, url)
        back = await almost_in(outside, url)

        async def again() -> None:
            if not await is_told(outside, back):
                drill.broken.append(f"{name}: a new login was not told so")
            await drill.login.start()

        async with drill.person(inside):
            await drill.fault(name, drill.login.stop, again)
        if drill.tally.failed:
            drill.broken.append(f"{name}: requests failed: {drill.tally.failed}")
