"""What visitors notice of a line to the control plane that does not hold: nothing."""

import asyncio

import pytest

from tests.e2e.outage_scene import is_connected, is_ready, open_scene, serves
from tests.e2e.world import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

SECONDS = 60
NEWS_EVERY = 6  # seconds
LONGEST_WAIT = 90.0  # between two tries: a minute, and half of it for the jitter


async def test_a_stream_that_is_cut_every_second_for_a_minute_costs_visitors_nothing() -> None:
    """Z-16, Z-17, Z-20, W1: nothing flaps, the control plane is not stormed, and what is changed meanwhile arrives."""
    async with open_scene() as scene, scene.replica("steady") as steady, scene.load(steady) as failures:
        await eventually("it is connected", lambda: is_connected(steady))
        before, at_first = await steady.pids(), scene.plane.subscribed
        paths: list[str] = []
        for second in range(SECONDS):
            if second % NEWS_EVERY == 0:
                paths.append(f"/n{second}")
                scene.plane.publish("config", scene.records(*paths), etag=f'"{second + 2}"')
            await asyncio.sleep(1)
            scene.grpc.cut()
            assert await is_ready(steady)
        assert await serves(scene, steady, paths[0])
        tried = scene.plane.subscribed - at_first
        await eventually("it is connected again", lambda: is_connected(steady), within=LONGEST_WAIT)
        await eventually("the last change is served", lambda: serves(scene, steady, paths[-1]))
        assert await steady.pids() == before

    assert failures == []
    assert scene.answered > 10 * SECONDS
    assert 3 <= tried < SECONDS / 2
