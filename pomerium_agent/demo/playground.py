"""A console and replicas on loopback, as processes of their own: what the demo and the end-to-end tests stand on."""

import asyncio
import json
import random
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from pomerium_agent.demo.processes import READY_SECONDS, Running, base_environment, run_process, run_verb, wait_for_file
from pomerium_agent.errors import SettingsError

POLL_SECONDS = 0.05
FREE_PORTS = (20_000, 32_000)
PORT_TRIES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleAt:
    """A running console."""

    running: Running
    cluster_api: str
    connect: str
    data_dir: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaAt:
    """A running replica, ready to serve."""

    running: Running  # its keeper
    address: str  # host:port on which visitors are served
    directory: Path

    @property
    def control_socket(self) -> Path:
        return self.directory / "control.sock"

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    async def status(self) -> Mapping[str, object]:
        """What it says of itself; raises aiohttp.ClientError while its agent is away."""
        return await ask(self.control_socket, "/status")

    async def pids(self) -> Mapping[str, int]:
        """Its keeper, agent and envoy."""
        found = (await self.status())["pids"]
        assert isinstance(found, dict)  # noqa: S101  # our own status
        return found


async def ask(control_socket: Path, path: str) -> Mapping[str, object]:
    """GET a JSON object over a unix socket."""
    connector = aiohttp.UnixConnector(path=str(control_socket), force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=5)) as session,
        session.get(f"http://replica{path}") as response,
    ):
        found = await response.json(content_type=None)
        if not isinstance(found, dict):
            raise aiohttp.ClientPayloadError(f"{path} is not a JSON object")
        return found


def free_port() -> int:
    """A loopback port that nobody listens on right now.

    Below those that connections take by themselves, which would have it before whoever asked for it.
    """
    ports = random.SystemRandom().sample(range(*FREE_PORTS), PORT_TRIES)
    for port in ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise SettingsError(f"no free port was found between {FREE_PORTS[0]} and {FREE_PORTS[1]}")


@asynccontextmanager
async def run_console(data_dir: Path, logs: Path, *, api_port: int = 0, grpc_port: int = 0) -> AsyncIterator[ConsoleAt]:
    """Run `console serve` on loopback until the block ends."""
    ready = logs / f"console-{free_port()}.ready"
    arguments = (
        "console",
        "serve",
        "--data-dir",
        str(data_dir),
        "--address",
        f"127.0.0.1:{api_port}",
        "--grpc-address",
        f"127.0.0.1:{grpc_port}",
        "--ready-file",
        str(ready),
    )
    async with run_process("console", *arguments, directory=logs, environment=base_environment()) as running:
        said = await wait_for_file(ready, running)
        yield ConsoleAt(
            running=running,
            cluster_api=str(said["cluster_api"]),
            connect=str(said["connect"]),
            data_dir=data_dir,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One cluster of a console of its own."""

    name: str
    directory: Path
    console: ConsoleAt
    token: str = field(repr=False)
    domain: str  # its starter domain
    ca_file: Path  # who signed the certificate of the starter domain

    async def apply(self, config: str, *options: str) -> str:
        """`console apply` of this text; what it printed."""
        await asyncio.to_thread(self.config_file.write_text, config)
        return await self.verb("console", "apply", "-f", str(self.config_file), "--cluster", self.name, *options)

    async def verb(self, *arguments: str) -> str:
        """Any verb of this console, as a person would run it; what it printed."""
        return await run_verb(*arguments, data_dir=self.console.data_dir)

    @property
    def config_file(self) -> Path:
        return self.directory / "routes.yaml"

    @asynccontextmanager
    async def replica(
        self,
        name: str = "r1",
        *,
        port: int = 0,
        environment: Mapping[str, str] | None = None,
        wait: bool = True,
        token_file: Path | None = None,
    ) -> AsyncIterator[ReplicaAt]:
        """Run a replica until the block ends; yields when it serves (or at once without `wait`).

        Its token comes from `token_file`, which may change, else from its environment.
        """
        address = f"127.0.0.1:{port or free_port()}"
        directory = self.directory / name
        env = base_environment() | {
            **({"POMERIUM_ZERO_TOKEN_FILE": str(token_file)} if token_file else {"POMERIUM_ZERO_TOKEN": self.token}),
            "CLUSTER_API_ENDPOINT": self.console.cluster_api,
            "CONNECT_SERVER_ENDPOINT": self.console.connect,
            "POMERIUM_OTEL_ENDPOINT": self.console.connect,
            "ADDRESS": address,
            "ENVOY_CONCURRENCY": "1",
            "RUNTIME_DIRECTORY": str(directory),
            "STATE_DIRECTORY": str(directory / "state"),
            "XDG_CACHE_HOME": str(directory / "cache"),
            **(environment or {}),
        }
        async with run_process(name, "run", directory=self.directory, environment=env) as running:
            replica = ReplicaAt(running=running, address=address, directory=directory)
            if wait:
                await wait_until_ready(replica)
            yield replica


@asynccontextmanager
async def open_cluster(directory: Path, name: str) -> AsyncIterator[Cluster]:
    """A console in `directory` with one cluster that nothing was applied to yet.

    Keep `directory` short: the paths of unix sockets below it may not be longer than 107 bytes.
    """
    async with run_console(directory / "console", directory) as console:
        created = json.loads(await run_verb("console", "cluster", "create", name, "--json", data_dir=console.data_dir))
        ca_file = directory / "ca.pem"
        await asyncio.to_thread(ca_file.write_text, created["ca"])
        yield Cluster(
            name=name,
            directory=directory,
            console=console,
            token=created["token"],
            domain=created["domain"],
            ca_file=ca_file,
        )


async def wait_until_ready(replica: ReplicaAt) -> None:
    """Return when a configuration is in force there; raises SettingsError with the end of its log otherwise."""
    name, log = replica.running.name, replica.running.tail
    try:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                if replica.running.process.returncode is not None:
                    raise SettingsError(
                        f"{name} ended with code {replica.running.process.returncode}; the end of its log:\n{log()}"
                    )
                try:
                    if (await replica.status())["ready"]:
                        return
                except (OSError, aiohttp.ClientError, TimeoutError):
                    pass  # its socket is not there yet
                await asyncio.sleep(POLL_SECONDS)  # another process: there is nothing to be woken by
    except TimeoutError as error:
        raise SettingsError(
            f"{name} did not serve within {READY_SECONDS:.0f} s; the end of its log:\n{log()}"
        ) from error


class _Loopback(AbstractResolver):
    """Every name is this machine: the names of a playground exist nowhere else."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=socket.AI_NUMERICHOST
            )
        ]

    async def close(self) -> None:
        """Nothing to close."""


def visitor(ca_file: Path | None = None) -> aiohttp.ClientSession:
    """A client that finds every host on loopback and trusts `ca_file` (nobody, without one)."""
    context = ssl.create_default_context(cafile=str(ca_file)) if ca_file else ssl.create_default_context()
    connector = aiohttp.TCPConnector(resolver=_Loopback(), ssl=context)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=10))
