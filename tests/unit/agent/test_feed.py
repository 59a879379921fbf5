"""What is offered to Envoy next, after what it said and what came meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.feed import Feeder
from pomerium_agent.config import Compiled
from pomerium_agent.config.action import Unavailable
from pomerium_agent.config.snapshot import Route
from pomerium_agent.envoy.ads_server import AdsServer
from pomerium_agent.envoy.ads_state import Delivery, Rejection
from pomerium_agent.envoyconfig.resources import ROUTES
from pomerium_agent.runtime.health import Health
from pomerium_agent.runtime.latest import Latest
from tests.fakes.snapshots import LOCAL, route, snapshot

REFUSAL = Rejection(ROUTES, "main", "1", "Envoy does not like it")


@asynccontextmanager
async def feeding(config: Latest[Compiled | None]) -> AsyncIterator[tuple[AdsServer, Board]]:
    """A feeder at work. No Envoy is connected: what one would say is put into `delivery`."""
    ads, board = AdsServer(), Board(version="test", instance="test", health=Health(), keeper_pid=0)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        work = group.create_task(Feeder(config, ads, LOCAL, board).run())
        yield ads, board
        work.cancel()


async def offered(ads: AdsServer, board: Board, label: str) -> tuple[Route, ...]:
    """The routes of the offer with this label, once it was made."""
    async with aclosing(ads.delivery.follow()) as deliveries:
        async for delivery in deliveries:
            if delivery.label == label:
                break
    assert board.offered is not None
    return board.offered.snapshot.routes


def several(digest: str, count: int = 4) -> Compiled:
    return Compiled(replace(snapshot([route(f"r{number}") for number in range(count)]), digest=digest))


def say(ads: AdsServer, delivery: Delivery) -> None:
    """What Envoy says of an offer, unless the next one is out already: an answer never takes an offer back."""
    if ads.delivery.value.label == delivery.label:
        ads.delivery.set(delivery)


async def turns() -> None:
    """Let the tasks at work hear what was said. None of them waits for anything but a thread that builds."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_refused_table_is_searched_for_the_route_to_blame() -> None:
    config: Latest[Compiled | None] = Latest(several("first"))
    async with feeding(config) as (ads, board):
        await offered(ads, board, "1")

        ads.delivery.set(Delivery("1", settled=True, rejections=(REFUSAL,)))

        routes = await offered(ads, board, "2")
    assert [isinstance(each.action, Unavailable) for each in routes] == [False, False, True, True]


async def test_what_envoy_says_of_an_outdated_table_blames_no_route_of_the_new_one() -> None:
    """R-4: a search among routes of yesterday would end with innocent ones set aside."""
    config: Latest[Compiled | None] = Latest(several("first"))
    async with feeding(config) as (ads, board):
        await offered(ads, board, "1")

        config.set(several("second"))
        await turns()
        say(ads, Delivery("1", settled=True, rejections=(REFUSAL,)))
        await offered(ads, board, "2")
        say(ads, Delivery("2", settled=True))
        await turns()

        assert board.in_force.value == "second"
        assert ads.delivery.value.label == "2"


async def test_a_table_that_settles_twice_is_one_answer() -> None:
    """While the next trial is being built, Envoy may settle the last one again: that clears nobody untried."""
    config: Latest[Compiled | None] = Latest(several("first", count=8))
    blamed: list[str] = []
    async with feeding(config) as (ads, board):
        for offer in map(str, range(1, 100)):
            routes = await offered(ads, board, offer)
            blamed = [each.id for each in routes if isinstance(each.action, Unavailable)]
            if "r2" not in blamed:
                say(ads, Delivery(offer, settled=True, rejections=(REFUSAL,)))
                continue
            for settled in (True, False, True):
                say(ads, Delivery(offer, settled))
                await turns()
            if board.in_force.value:
                break
    assert blamed == ["r2"]


async def test_services_that_serve_say_so_and_are_counted() -> None:
    """Zero link 13.2 and 14: `proxy.service`, and what `policy_count_total` and its siblings say."""
    config: Latest[Compiled | None] = Latest(several("first"))
    async with feeding(config) as (ads, board):
        await offered(ads, board, "1")
        assert "proxy.service" not in board.health.reports

        ads.delivery.set(Delivery("1", settled=True))
        async for digest in board.in_force.follow():
            if digest == "first":
                break

    assert board.health.reports["proxy.service"].healthy
    text = board.metrics.text()
    assert b"\npolicy_count_total 4.0\n" in text
    assert b"\nconfig_last_reload_success 1.0\n" in text
    assert b"\nconfig_last_reload_success_timestamp 0.0\n" not in text
