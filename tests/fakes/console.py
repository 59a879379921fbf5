"""A real console on loopback for tests, and the calls a replica makes of it."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import grpc

from pomerium_agent.console.apply import Applied, apply_file
from pomerium_agent.console.clusters import create_cluster
from pomerium_agent.console.server import Console, ServeOptions, serve_console
from pomerium_agent.console.store import Cluster
from pomerium_agent.pb.pomerium import connect_pb2, connect_pb2_grpc
from pomerium_agent.runtime.clock import Clock

QUICKSTART = Path(__file__).parent.parent / "samples" / "quickstart.yaml"
MIXED = Path(__file__).parent.parent / "samples" / "mixed-200.yaml"
NOW = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Visit:
    """One console with one cluster, and a client that speaks to it as a replica does."""

    console: Console
    cluster: Cluster
    token: str
    http: aiohttp.ClientSession

    async def post(self, path: str, body: object, bearer: str = "") -> tuple[int, Mapping[str, object]]:
        """POST JSON below the API; status and JSON answer (empty without one)."""
        async with self.http.post(f"{self.console.cluster_api}/{path}", json=body, headers=bearing(bearer)) as answer:
            return answer.status, await answer.json() if answer.content_type == "application/json" else {}

    async def get(self, path: str, bearer: str = "") -> tuple[int, Mapping[str, object]]:
        """GET JSON below the API."""
        async with self.http.get(f"{self.console.cluster_api}/{path}", headers=bearing(bearer)) as answer:
            return answer.status, await answer.json()

    async def bearer(self) -> str:
        """The token exchanged."""
        status, answer = await self.post("exchangeToken", {"refreshToken": self.token})
        assert status == 200
        return str(answer["idToken"])

    async def bundle_url(self) -> str:
        status, answer = await self.get("bundles/config/download", await self.bearer())
        assert status == 200
        return str(answer["url"])

    @asynccontextmanager
    async def subscribed(
        self, bearer: str, *, hostname: str = "one", instance: str = ""
    ) -> AsyncIterator[grpc.aio.UnaryStreamCall[connect_pb2.SubscribeRequest, connect_pb2.Message]]:
        """An open Connect stream that the console has accepted, compressed as replicas do (Z-15)."""
        async with self.channel() as channel:
            more = (("x-pomerium-agent-instance", instance),) if instance else ()
            call = connect_pb2_grpc.ConnectStub(channel).Subscribe(
                connect_pb2.SubscribeRequest(hostname=hostname, version="1.2.3"),
                metadata=(("authorization", f"Bearer {bearer}"), *more),
                compression=grpc.Compression.Gzip,
            )
            await call.initial_metadata()
            try:
                yield call
            finally:
                call.cancel()

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.console.connect.removeprefix("http://"))

    def apply(self, file: Path, *, allow_faulty: bool = False) -> Applied:
        """What the verb does, without the poke."""
        return apply_file(self.console.store, self.cluster.name, file, now=NOW, allow_faulty=allow_faulty)


def bearing(bearer: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {bearer}"} if bearer else {}


def serve_options(data_dir: Path, **options: object) -> ServeOptions:
    """How to serve on free ports, unless a test says otherwise."""
    given = {"address": "127.0.0.1:0", "grpc_address": "127.0.0.1:0"} | options
    return ServeOptions(data_dir=data_dir, **given)  # type: ignore[arg-type]  # a wrong name fails the test anyway


@asynccontextmanager
async def visited_console(data_dir: Path, *, clock: Clock | None = None, **options: object) -> AsyncIterator[Visit]:
    """A console on free ports with one cluster."""
    now = clock.now() if clock else datetime.now(UTC)
    async with serve_console(serve_options(data_dir, **options), clock=clock) as console:
        made = create_cluster(console.store, "demo", now=now)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
            yield Visit(console, made.cluster, str(made.token), http)
