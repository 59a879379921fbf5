"""A control plane of which everything may go wrong, and replicas under a constant load, for tests of outages."""

import asyncio
import base64
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from pomerium_agent.demo.playground import ReplicaAt, free_port, visitor, wait_until_ready
from pomerium_agent.demo.processes import base_environment, run_process
from pomerium_agent.demo.upstream import serve_upstream
from pomerium_agent.pb.pomerium import connect_pb2
from pomerium_agent.records import Record
from tests.fakes.authority import Issued, issue_for_loopback
from tests.fakes.config_records import config, route
from tests.fakes.control_plane import TOKEN, FakeControlPlane, serve_control_plane
from tests.fakes.tcp_proxy import TcpProxy, open_proxy

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
    async def load(self, replica: ReplicaAt) -> AsyncIterator[list[str]]:
        """Two clients that ask for the public route and the private one for as long as the block lasts; what failed."""
        failures: list[str] = []

        async def ask(path: str, expected: int) -> None:
            while True:
                try:
                    if (status := await self.status(replica, path)) != expected:
                        failures.append(f"{path}: status {status}")
                except GONE as error:
                    failures.append(f"{path}: {error!r}")
                self.answered += 1
                await asyncio.sleep(0.02)

        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(ask("/public", 200)), group.create_task(ask("/private", 401))]
            yield failures
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


async def is_connected(replica: ReplicaAt, wanted: bool = True) -> bool:
    return (await replica.status())["connected"] is wanted


async def serves(scene: Scene, replica: ReplicaAt, path: str) -> bool:
    return await scene.status(replica, path) == 200


async def is_ready(replica: ReplicaAt) -> bool:
    """What a balancer would be told."""
    connector = aiohttp.UnixConnector(path=str(replica.control_socket))
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5)) as session,
        session.get("http://replica/readyz") as response,
    ):
        return response.status == 200
