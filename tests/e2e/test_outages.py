"""What visitors notice of a control plane that is down, or talks nonsense: nothing (architecture 7, Z-65).

One world for all of it: an agent and an Envoy that run all the while under a constant load, and in each state of the
control plane another replica that is started anew, with nothing but what its machine keeps.
"""

import asyncio
import base64
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from pomerium_agent.demo.playground import ReplicaAt, free_port, visitor, wait_until_ready
from pomerium_agent.demo.processes import base_environment, run_process
from pomerium_agent.demo.upstream import serve_upstream
from pomerium_agent.pb.pomerium import connect_pb2
from pomerium_agent.records import Record
from tests.e2e.world import eventually, kill
from tests.fakes.authority import Issued, issue_for_loopback
from tests.fakes.config_records import config, route
from tests.fakes.control_plane import TOKEN, FakeControlPlane, Say, html, say, serve_control_plane
from tests.fakes.raw_server import serve_raw, swallow
from tests.fakes.tcp_proxy import TcpProxy, open_proxy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

API = ("exchangeToken", "bootstrap", "bundles", "download")
CUTS = 6  # of the connect stream, one a second
GONE = (OSError, aiohttp.ClientError, TimeoutError)


@dataclass(slots=True, kw_only=True)
class Scene:
    """A control plane of which everything may go wrong, behind two doors; what its clusters need; and who asks."""

    directory: Path
    plane: FakeControlPlane
    api: TcpProxy
    grpc: TcpProxy
    roots: Path
    client: aiohttp.ClientSession
    certificate: Issued
    upstream: int
    failures: list[str] = field(default_factory=list)
    answered: int = 0
    started: int = 0

    def records(self, *paths: str) -> tuple[Record, ...]:
        """A public route, a private one, and more public ones."""
        where = {"from_": "https://localhost", "to": [f"http://127.0.0.1:{self.upstream}"]}
        public = {**where, "allow_public_unauthenticated_access": True}
        certificate = {
            "certBytes": base64.b64encode(self.certificate.certificate).decode(),
            "keyBytes": base64.b64encode(self.certificate.key).decode(),
        }
        routes = [route(**public, prefix=path) for path in ("/public", *paths)]
        routes.append(route(**where, prefix="/private", allow_any_authenticated_user=True))
        return (config("config", *routes, certificates=[certificate]),)

    @asynccontextmanager
    async def replica(self, machine: str, *, wait: bool = True) -> AsyncIterator[ReplicaAt]:
        """A replica on `machine`, which is what it keeps on disk; the rest is new each time."""
        self.started += 1
        directory = self.directory / f"r{self.started}"
        address = f"127.0.0.1:{free_port()}"
        env = base_environment() | {
            "POMERIUM_ZERO_TOKEN": str(TOKEN),
            "CLUSTER_API_ENDPOINT": f"https://127.0.0.1:{self.api.port}/v1",
            "CONNECT_SERVER_ENDPOINT": f"https://127.0.0.1:{self.grpc.port}",
            "POMERIUM_OTEL_ENDPOINT": f"https://127.0.0.1:{self.grpc.port}",
            "SSL_CERT_FILE": str(self.roots),
            "ADDRESS": address,
            "ENVOY_CONCURRENCY": "1",
            "RUNTIME_DIRECTORY": str(directory),
            "STATE_DIRECTORY": str(self.directory / machine / "state"),
            "XDG_CACHE_HOME": str(self.directory / machine / "cache"),
        }
        async with run_process(directory.name, "run", directory=self.directory, environment=env) as running:
            replica = ReplicaAt(running=running, address=address, directory=directory)
            if wait:
                await wait_until_ready(replica)
            yield replica

    async def status(self, replica: ReplicaAt, path: str) -> int:
        url = f"https://localhost:{replica.port}{path}"
        async with self.client.get(url, allow_redirects=False, headers={"accept": "application/json"}) as response:
            await response.read()
            return response.status

    @asynccontextmanager
    async def load(self, replica: ReplicaAt) -> AsyncIterator[None]:
        """Two clients that ask for the public route and the private one for as long as the block lasts."""

        async def ask(path: str, expected: int) -> None:
            while True:
                try:
                    if (status := await self.status(replica, path)) != expected:
                        self.failures.append(f"{path}: status {status}")
                except GONE as error:
                    self.failures.append(f"{path}: {error!r}")
                self.answered += 1
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(ask("/public", 200)), group.create_task(ask("/private", 401))]
            yield
            for client in clients:
                client.cancel()

    def nudge(self) -> None:
        """Have every replica talk to us now."""
        self.plane.push(connect_pb2.Message(config_updated=connect_pb2.ConfigUpdated()))
        self.plane.push(connect_pb2.Message(bootstrap_config_updated=connect_pb2.BootstrapConfigUpdated()))


@asynccontextmanager
async def open_scene() -> AsyncIterator[Scene]:
    issued = issue_for_loopback()
    with tempfile.TemporaryDirectory(prefix="pa-") as name:  # short: unix socket paths may not be long
        directory = Path(name)
        async with serve_control_plane(issued, directory) as plane, serve_upstream() as upstream:
            roots = directory / "roots.pem"
            await asyncio.to_thread(roots.write_bytes, issued.authority)
            async with (
                open_proxy(int(plane.http_url.rpartition(":")[2])) as api,
                open_proxy(plane.grpc_endpoint.port) as grpc,
                visitor(directory / "ca.crt") as client,
            ):
                plane.http_url = f"https://127.0.0.1:{api.port}"  # bundles are fetched through the same door
                scene = Scene(
                    directory=directory,
                    plane=plane,
                    api=api,
                    grpc=grpc,
                    roots=roots,
                    client=client,
                    certificate=issued,
                    upstream=upstream.port,
                )
                plane.publish("config", scene.records(), etag='"1"')
                yield scene


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


async def serves_from_what_it_keeps(scene: Scene, name: str, words: str = "") -> None:
    """A machine that starts now."""
    asked = len(scene.plane.seen)
    async with scene.replica("machine") as replica:
        assert await scene.status(replica, "/public/now") == 200, name
        assert await scene.status(replica, "/private") == 401, name
        told = await replica.status()
        assert told["config"]["last_good_of"], name  # type: ignore[index]  # our own JSON
        if words:
            assert words in told["statuses"]["zero.connect"]["error"]  # type: ignore[index]  # our own JSON
        assert name not in NONSENSE or len(scene.plane.seen) > asked
        kill(replica.running.pid)


async def is_kept(replica: ReplicaAt) -> bool:
    statuses = (await replica.status())["statuses"]
    assert isinstance(statuses, dict)
    return "config.last-good" in statuses and not statuses["config.last-good"]["error"]


async def is_another(replica: ReplicaAt, before: int) -> bool:
    status = await replica.status()
    return (await replica.pids())["agent"] != before and bool(status["config"]["in_force"])  # type: ignore[index]  # our own JSON


async def is_connected(replica: ReplicaAt, wanted: bool = True) -> bool:
    return (await replica.status())["connected"] is wanted


async def test_visitors_notice_nothing_whatever_the_control_plane_does() -> None:
    """Z-10, Z-16, Z-36, Z-51, Z-65, W3: at a replica that runs, and at one that is started meanwhile."""
    async with open_scene() as scene:
        async with scene.replica("machine") as replica:
            await eventually("the configuration is kept", lambda: is_kept(replica))
        async with scene.replica("steady") as steady, scene.load(steady):
            await eventually("it is connected", lambda: is_connected(steady))

            for name, (begin, words) in NONSENSE.items():
                await begin(scene)
                await serves_from_what_it_keeps(scene, name, words)
                assert scene.failures == [], name

            # Not one that answers, from here on.
            async with serve_raw(swallow) as silence:
                scene.api.target, scene.grpc.target, healthy = silence, silence, (scene.api.target, scene.grpc.target)
                await behaves(scene)
                await serves_from_what_it_keeps(scene, "accepts and hangs")
            expired = issue_for_loopback(expired=True)
            await asyncio.to_thread(scene.roots.write_bytes, scene.certificate.authority + expired.authority)
            elsewhere = scene.directory / "expired"
            await asyncio.to_thread(elsewhere.mkdir)
            async with serve_control_plane(expired, elsewhere) as late:
                scene.api.target, scene.grpc.target = int(late.http_url.rpartition(":")[2]), late.grpc_endpoint.port
                await behaves(scene)
                await serves_from_what_it_keeps(scene, "has an expired certificate", "certificate has expired")
                assert late.seen == []
            scene.api.refuse()
            scene.grpc.refuse()
            await serves_from_what_it_keeps(scene, "refuses connections", "Connection refused")
            assert scene.failures == []

            # The agent that ran all the while dies too; the next one adopts its Envoy. Only a question that was
            # put to it and not answered is lost.
            before = (await steady.pids())["agent"]
            kill(before)
            await eventually("another agent serves", lambda: is_another(steady, before))
            await asyncio.sleep(1)
            assert scene.failures in ([], ["/private: status 503"])
            scene.failures.clear()

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
        assert scene.failures == []
        assert scene.answered > 100


async def test_a_stream_that_is_cut_every_second_costs_visitors_nothing() -> None:
    """Z-16, Z-17, Z-20: and what is changed meanwhile arrives."""
    async with open_scene() as scene, scene.replica("steady") as steady, scene.load(steady):
        for number in range(CUTS):
            scene.plane.publish("config", scene.records(*(f"/{n}" for n in range(number + 1))), etag=f'"{number + 2}"')
            await asyncio.sleep(1)
            scene.grpc.cut()
        await eventually("it is connected again", lambda: is_connected(steady))
        await eventually("the last change is served", lambda: serves(scene, steady, f"/{CUTS - 1}"))

    assert scene.failures == []


async def serves(scene: Scene, replica: ReplicaAt, path: str) -> bool:
    return await scene.status(replica, path) == 200
