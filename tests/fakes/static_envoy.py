"""A real Envoy fed from one file: the resources that would travel over ADS, rendered as a static configuration."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from pomerium_agent.envoy.binary import envoy_binary
from pomerium_agent.envoyconfig import build_bootstrap, envoy_arguments
from pomerium_agent.envoyconfig.resources import CLUSTER, LISTENER, ROUTES, SECRET, EnvoyResources
from pomerium_agent.pb.envoy.config.cluster.v3 import cluster_pb2
from pomerium_agent.pb.envoy.config.listener.v3 import listener_pb2
from pomerium_agent.pb.envoy.config.route.v3 import route_pb2
from pomerium_agent.pb.envoy.extensions.transport_sockets.tls.v3 import secret_pb2

MESSAGES: dict[str, type[Message]] = {
    CLUSTER: cluster_pb2.Cluster,
    LISTENER: listener_pb2.Listener,
    ROUTES: route_pb2.RouteConfiguration,
    SECRET: secret_pb2.Secret,
}


def as_json(resources: EnvoyResources, type_url: str) -> dict[str, Any]:
    """The resources of one type by name, in Envoy's JSON."""
    return {
        name: MessageToDict(MESSAGES[type_url].FromString(item.body), preserving_proto_field_name=True)
        for name, item in resources.of(type_url).items()
    }


def static_bootstrap(resources: EnvoyResources, directory: Path) -> dict[str, Any]:
    """The bootstrap with everything in it, so that no control plane is needed."""
    bootstrap: dict[str, Any] = build_bootstrap(directory / "admin.sock", directory / "ads.sock")
    del bootstrap["dynamic_resources"]
    [routes] = as_json(resources, ROUTES).values()
    bootstrap["static_resources"] = {
        "clusters": [*(_static(each, routes) for each in as_json(resources, CLUSTER).values())],
        "listeners": [*(_static(each, routes) for each in as_json(resources, LISTENER).values())],
        "secrets": [*as_json(resources, SECRET).values()],
    }
    return bootstrap


def _static(node: Any, routes: dict[str, Any]) -> Any:
    """The same without a word of ADS: routes in place, secrets by name."""
    if isinstance(node, list):
        return [_static(each, routes) for each in node]
    if not isinstance(node, dict):
        return node
    found = {key: _static(value, routes) for key, value in node.items() if key != "sds_config"}
    if "rds" in found:
        del found["rds"]
        found["route_config"] = routes
    return found


class StaticEnvoy:
    """A running Envoy: its admin pages, and what it wrote."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.out = directory / "envoy.out"
        self.said: list[str] = []  # its own log, which goes to standard error

    async def ask_admin(self, path: str) -> str:
        """The admin page at `path`."""
        connector = aiohttp.UnixConnector(path=str(self.directory / "admin.sock"))
        async with aiohttp.ClientSession(connector=connector) as session, session.get(f"http://envoy{path}") as answer:
            return await answer.text()

    def access_log(self) -> list[dict[str, Any]]:
        """One entry per request, complete once Envoy has ended."""
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    async def listening(self) -> None:
        """Return when every worker accepts connections, of which Envoy says no word: it has to be asked."""
        started = "listener_manager.workers_started"
        while f"{started}: 1" not in await self.ask_admin(f"/stats?filter={started}"):  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)

    async def listen_to(self, stream: asyncio.StreamReader, until: str = "") -> None:
        """Read its log to the end, or to a line that holds `until`."""
        while line := (await stream.readline()).decode():
            self.said.append(line)
            if until and until in line:
                return
        if until:
            raise RuntimeError("Envoy ended: " + "".join(self.said)[-3000:])


@asynccontextmanager
async def running_envoy(resources: EnvoyResources, directory: Path) -> AsyncIterator[StaticEnvoy]:
    """Start Envoy with `resources` and wait until it serves; stop it on the way out, with its access log written."""
    bootstrap = directory / "bootstrap.json"
    bootstrap.write_text(json.dumps(static_bootstrap(resources, directory)))
    argv = envoy_arguments(envoy_binary(None), bootstrap, concurrency=1)
    argv[argv.index("--log-level") + 1] = "info"  # where it says that it starts
    envoy = StaticEnvoy(directory)
    with envoy.out.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*argv, stdout=out, stderr=asyncio.subprocess.PIPE, limit=1 << 20)
        assert process.stderr is not None
        try:
            async with asyncio.timeout(30):
                await envoy.listen_to(process.stderr, until="starting main dispatch loop")
            async with asyncio.TaskGroup() as group:
                group.create_task(envoy.listen_to(process.stderr))
                try:
                    async with asyncio.timeout(30):
                        await envoy.listening()
                    yield envoy
                finally:
                    process.terminate()
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
