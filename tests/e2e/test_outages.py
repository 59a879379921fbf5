"""What visitors notice of a control plane that is down, or talks nonsense: nothing (architecture 7, Z-65).

One world for all of it: an agent and an Envoy that run all the while under a constant load, and in each state of the
control plane another replica that is started anew, with nothing but what its machine keeps, and loses its agent.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pomerium_agent.demo.playground import ReplicaAt
from tests.e2e.outage_scene import Scene, is_connected, open_scene, serves
from tests.e2e.world import eventually, kill
from tests.fakes.authority import issue_for_loopback
from tests.fakes.control_plane import Say, html, say, serve_control_plane
from tests.fakes.raw_server import serve_raw, swallow

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

PATIENCE_OF_ENVOY = 10.0  # seconds that a question waits for an agent, which on a busy machine takes its time to start
API = ("exchangeToken", "bootstrap", "bundles", "download")

Fault = Callable[[Scene], Awaitable[None]]


async def behaves(scene: Scene, answer: Say | None = None) -> None:
    for operation in API:
        scene.plane.always(operation, answer)
    scene.plane.always("storage", None)
    scene.plane.bearers.clear()
    scene.api.cut()
    scene.grpc.cut()


def answers(answer: Say) -> Fault:
    return lambda scene: behaves(scene, answer)


async def cuts_bundles_short(scene: Scene) -> None:
    """And all else is well: replicas are connected, and know that there is something newer."""
    whole = scene.plane.bundles["config"].content
    await behaves(scene)
    headers = {"ETag": '"2"', "Last-Modified": "Wed, 02 Jan 2030 00:00:00 GMT"}
    cut = Say(body=whole, content_type="application/octet-stream", headers=headers, cut_after=len(whole) // 2)
    scene.plane.always("storage", cut)
    scene.nudge()


# What the control plane does, and what a replica says of it in `status`, where it can know within a second.
NONSENSE: dict[str, tuple[Fault, str]] = {
    "answers HTML": (answers(html()), "text/html"),
    "answers 401": (answers(say({"error": "who?"}, 401)), "401"),
    "answers 403": (answers(say({"error": "no"}, 403)), "403"),
    "answers 429": (answers(say({"error": "later"}, 429, Retry_After="30")), "429"),
    "answers 500": (answers(say({"error": "oh"}, 500)), "internal server error: oh"),
    "answers a byte a second": (answers(Say(body=b'{"idToken": "x"}' * 10, drip=1.0)), ""),
    "never answers": (answers(Say(hang=True)), ""),
    "cuts bundles short": (cuts_bundles_short, ""),
}


async def is_survived(scene: Scene, name: str, words: str = "") -> None:
    """By a machine that starts now, and by the next agent there when the first one is killed."""
    asked = len(scene.plane.seen)
    async with scene.replica("machine") as replica:
        assert await scene.status(replica, "/public/now") == 200, name
        assert await scene.status(replica, "/private") == 401, name
        told = await replica.status()
        assert told["config"]["last_good_of"], name  # type: ignore[index]  # our own JSON
        if words:
            assert words in told["statuses"]["zero.connect"]["error"]  # type: ignore[index]  # our own JSON
        assert name not in NONSENSE or len(scene.plane.seen) > asked
        async with scene.load(replica) as failures:
            await another_agent_serves(scene, replica, failures)
        kill(replica.running.pid)


async def another_agent_serves(scene: Scene, replica: ReplicaAt, failures: list[str]) -> None:
    """Once this one is killed. Only a question that was put to it and not answered is lost."""
    before, now = await replica.pids(), asyncio.get_running_loop().time

    async def serves() -> bool:
        status, pids = await replica.status(), await replica.pids()
        in_force = status["config"]["in_force"]  # type: ignore[index]  # our own JSON
        return pids["agent"] != before["agent"] and in_force and await scene.status(replica, "/private") == 401

    began = now()
    kill(before["agent"])
    await eventually("another agent serves", serves)
    assert (await replica.pids())["envoy"] == before["envoy"]
    assert set(failures) <= {"/private: status 503"}
    assert len(failures) <= 1 + (now() - began) // PATIENCE_OF_ENVOY
    failures.clear()


async def is_kept(replica: ReplicaAt) -> bool:
    statuses = (await replica.status())["statuses"]
    assert isinstance(statuses, dict)
    return "config.last-good" in statuses and not statuses["config.last-good"]["error"]


async def test_visitors_notice_nothing_whatever_the_control_plane_does() -> None:
    """Z-10, Z-16, Z-36, Z-51, Z-65, W3: at a replica that runs, and at one that is started meanwhile."""
    async with open_scene() as scene:
        async with scene.replica("machine") as replica:
            await eventually("the configuration is kept", lambda: is_kept(replica))
        async with scene.replica("steady") as steady, scene.load(steady) as failures:
            await eventually("it is connected", lambda: is_connected(steady))

            for name, (begin, words) in NONSENSE.items():
                await begin(scene)
                await is_survived(scene, name, words)
                assert failures == [], name

            # Not one that answers, from here on.
            async with serve_raw(swallow) as silence:
                scene.api.target, scene.grpc.target, healthy = silence, silence, (scene.api.target, scene.grpc.target)
                await behaves(scene)
                await is_survived(scene, "accepts and hangs")
            expired = issue_for_loopback(expired=True)
            await asyncio.to_thread(scene.roots.write_bytes, scene.certificate.authority + expired.authority)
            elsewhere = scene.directory / "expired"
            await asyncio.to_thread(elsewhere.mkdir)
            async with serve_control_plane(expired, elsewhere) as late:
                scene.api.target, scene.grpc.target = int(late.http_url.rpartition(":")[2]), late.grpc_endpoint.port
                await behaves(scene)
                await is_survived(scene, "has an expired certificate", "certificate has expired")
                assert late.seen == []
            scene.api.refuse()
            scene.grpc.refuse()
            await is_survived(scene, "refuses connections", "Connection refused")

            assert failures == []
            await another_agent_serves(scene, steady, failures)

            # And it comes back, with news.
            scene.api.target, scene.grpc.target = healthy
            await behaves(scene)
            await scene.api.listen()
            await scene.grpc.listen()
            scene.plane.publish("config", scene.records("/late"), etag='"3"')
            async with scene.replica("machine") as replica:
                await eventually("the new route is served", lambda: serves(scene, replica, "/late"))
                status = await replica.status()
                assert status["config"]["last_good_of"] is None  # type: ignore[index]  # our own JSON
        assert failures == []
        assert scene.answered > 100
