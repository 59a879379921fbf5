"""One agent taking another's place while visitors are served (architecture.md 1, 7): what each of the two does.

The keeper leads: it starts the one that comes beside the one that is, and tells either what it may do when.

    comes   prepares behind closed doors ──► prepared        charge ──► records, doors ──► serving
    is                                         hold ──► held                succeeded ──► left, SIGTERM
"""

import asyncio
from contextlib import aclosing
from pathlib import Path

import structlog

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.doors import Doors
from pomerium_agent.databroker import HandOver
from pomerium_agent.envoy.ads_server import AdsServer
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.keeper_link import Charge, KeeperLink
from pomerium_agent.runtime.waiting import first_of, until_is
from pomerium_agent.sessions.live import Sessions

log = structlog.get_logger(__name__)

LOOK_AGAIN = 0.05  # seconds between looks whether we know who is signed in


def hand_over_of(keeper: KeeperLink, databroker_socket: Path) -> HandOver:
    """How our records come from the agent before us, and go to the one after."""
    return HandOver(
        successor=databroker_socket,
        predecessor=databroker_socket if keeper.successor else None,
        hold=keeper.hold,
        succeeded=keeper.succeeded,
    )


async def make_room(keeper: KeeperLink, handover: HandOver, board: Board) -> None:
    """Tell the keeper how far we are with leaving, whenever another agent is to take our place; for ever."""

    async def tell_held() -> None:
        async with aclosing(handover.held.follow()) as values:
            async for held in values:
                if held:
                    await keeper.held()

    async def tell_left() -> None:
        await until_is(handover.left, True)
        log.info("another agent has taken over")
        board.health.hush()  # the other one speaks for this replica now
        await keeper.left()

    async with asyncio.TaskGroup() as group:
        group.create_task(tell_held(), name="tell-held")
        group.create_task(tell_left(), name="tell-left")


async def take_over(
    keeper: KeeperLink, handover: HandOver, doors: Doors, ads: AdsServer, sessions: Sessions, board: Board, clock: Clock
) -> None:
    """Get ready, wait until we are in charge, and open the doors; nothing to do for who was from the beginning.

    An agent that is alone by now opens them whether it is ready or not, as one that was started anew does.
    """
    if doors.opened.value:
        return
    await first_of(_ready(handover, ads, sessions, clock), _charge(keeper))
    if keeper.charge.value is None:
        log.info("ready to take over")
        await keeper.prepared()
    charge = await _charge(keeper)
    board.inherited = charge.ready
    handover.alone.set(charge.alone)
    handover.due.set(True)
    await until_is(handover.settled, True)
    await doors.open()
    log.info("taken over")
    await keeper.serving()


async def _ready(handover: HandOver, ads: AdsServer, sessions: Sessions, clock: Clock) -> None:
    """There is a configuration to offer, and we know whatever the other agent does."""
    async with aclosing(ads.delivery.follow()) as deliveries:
        async for delivery in deliveries:
            if delivery.label:
                break
    await until_is(handover.copied, True)
    while not sessions.loaded:
        await clock.sleep(LOOK_AGAIN)


async def _charge(keeper: KeeperLink) -> Charge:
    async with aclosing(keeper.charge.follow()) as charges:
        async for charge in charges:
            if charge is not None:
                return charge
    raise AssertionError("a Latest never ends")
