"""A real Envoy in front of real authorization, fed from a configuration and a databroker that the test holds."""

import asyncio
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import certifi
from cryptography.hazmat.primitives.asymmetric import ec

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.feed import Feeder
from pomerium_agent.authenticate.pages import serve_pages
from pomerium_agent.authorize import NO_RULES, Checker, Rules, serve_authorize
from pomerium_agent.authorize.from_config import RulesBuilder
from pomerium_agent.authorize.login import SignInUrl, signed_sign_in
from pomerium_agent.authorize.serverless import ServerlessTokens
from pomerium_agent.config import Compiled, compile_snapshot
from pomerium_agent.config.digest import CONFIG
from pomerium_agent.config.live import read_local_file
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.demo.playground import free_port
from pomerium_agent.demo.upstream import serve_upstream
from pomerium_agent.envoy.ads_server import serve_ads
from pomerium_agent.envoy.binary import envoy_binary
from pomerium_agent.envoyconfig import LocalAddresses, build_bootstrap, envoy_arguments
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Record, pack
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.runtime.health import Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.sessions.bearer import Bearers
from pomerium_agent.sessions.handle import Handle, sign_handle
from pomerium_agent.sessions.live import open_sessions
from pomerium_agent.sessions.signer import Signer
from tests.e2e.world import eventually

SHARED_KEY = bytes(range(32))
SYSTEM_CA = Path(certifi.where()).read_text()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Envoy on loopback, without TLS unless told otherwise, asking about every request that is not public."""

    port: int
    upstream: int
    backend: MemoryBackend
    checker: Checker
    client: aiohttp.ClientSession
    config: Latest[Compiled | None]
    health: Health
    directory: Path  # with Envoy's admin.sock, and envoy.log, which is what it prints
    tls: bool = False

    def url(self, path: str = "/") -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}{path}"

    def configure(self, *routes: config_pb2.Route, settings: config_pb2.Settings | None = None) -> None:
        """Another configuration from now on."""
        self.config.set(compiled(routes, settings, self.port, self.upstream, tls=self.tls))

    async def get(self, host: str, path: str = "/", **headers: str) -> "Answer":
        """One request to `host`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.get(
            self.url(path),
            headers={"host": host, **named},
            allow_redirects=False,
            ssl=not self.tls,  # its certificate is signed by nobody
        ) as response:
            return Answer(
                response.status,
                {name.lower(): value for name, value in response.headers.items()},
                await response.text(),
            )


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def seen(self) -> dict[str, str]:
        """The headers that the upstream saw."""
        found = json.loads(self.text)["headers"]
        assert isinstance(found, dict)
        return found


def bearer(id: str) -> str:
    """An Authorization header for the session or service account `id`."""
    return f"Bearer Pomerium-{sign_handle(Handle(id=id), SHARED_KEY)}"


@asynccontextmanager
async def open_gate(
    *routes: config_pb2.Route,
    settings: config_pb2.Settings | None = None,
    records: Iterable[Record] = (),
    tls: bool = False,
    metadata: str = "http://127.0.0.1:9",
    sign_in_url: SignInUrl = signed_sign_in,
    name_server: str = "",
) -> AsyncIterator[Gate]:
    """Open it with these routes, whose `to` may be UPSTREAM, and these records of people.

    With `tls`, it shows the certificate of those who have none. `metadata` is where Google's metadata server is;
    `name_server` (host:port) is the only one that Envoy asks.
    """
    with tempfile.TemporaryDirectory(prefix="pa-") as name:
        directory, clock, health, port = Path(name), SystemClock(), Health(), free_port()
        backend = MemoryBackend(clock)
        await backend.put(list(records))
        rules: Latest[Rules] = Latest(NO_RULES)
        key = ec.generate_private_key(ec.SECP256R1())
        async with (
            serve_upstream() as upstream,
            open_sessions(backend, clock, health) as sessions,
            serve_ads(directory / "ads.sock", clock) as ads,
            serve_pages(listening(directory / "pages.sock"), keys=Latest((Signer(key).jwk,))),
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as client,
            asyncio.TaskGroup() as group,
        ):
            serverless = ServerlessTokens(rules, client, clock, health, metadata=metadata)
            keeping = group.create_task(serverless.run())
            bearers = Bearers(sessions=sessions, backend=backend, http=client, clock=clock)
            checker = Checker(rules, sessions, clock, bearers=bearers, serverless=serverless, sign_in_url=sign_in_url)
            async with serve_authorize(listening(directory / "authorize.sock"), checker.check):
                config = Latest[Compiled | None](compiled(routes, settings, port, upstream.port, tls=tls))
                board = Board(version="test", instance="test", health=health, keeper_pid=0, ads=ads)
                local = LocalAddresses(
                    authorize_socket=str(directory / "authorize.sock"),
                    pages_socket=str(directory / "pages.sock"),
                    admin_socket=str(directory / "admin.sock"),
                    system_ca=SYSTEM_CA,
                )
                builder = RulesBuilder(shared_key=SHARED_KEY, signer=Signer(key))
                feeding = group.create_task(Feeder(config, ads, local, board, rules, builder=builder).run())
                async with running_envoy(directory, name_server):

                    async def in_force() -> bool:
                        return bool(board.in_force.value)

                    await eventually("the configuration is in force", in_force)
                    yield Gate(
                        port=port,
                        upstream=upstream.port,
                        backend=backend,
                        checker=checker,
                        client=client,
                        config=config,
                        health=health,
                        directory=directory,
                        tls=tls,
                    )
                feeding.cancel()
                keeping.cancel()


def compiled(
    routes: Iterable[config_pb2.Route],
    settings: config_pb2.Settings | None,
    port: int,
    upstream: int,
    *,
    tls: bool = False,
) -> Compiled:
    """The configuration, as a replica compiles it; a fault fails the test."""
    message = config_pb2.Config(name="test", settings=settings)
    message.settings.address = f"127.0.0.1:{port}"
    message.settings.insecure_server = not tls
    for route in routes:
        filled = message.routes.add()
        filled.CopyFrom(route)
        filled.to[:] = [to.replace("UPSTREAM", f"http://127.0.0.1:{upstream}") for to in route.to]
    record = Record(type=CONFIG, id="test", data=pack(message))
    snapshot, faults = compile_snapshot([record], now=SystemClock().now(), read_file=read_local_file)
    assert [str(fault) for fault in faults if not fault.warning] == []
    return Compiled(snapshot, faults)


def listening(path: Path) -> socket.socket:
    """A listening unix socket, as the keeper binds it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(128)
    sock.setblocking(False)
    return sock


@asynccontextmanager
async def running_envoy(directory: Path, name_server: str = "") -> AsyncIterator[None]:
    bootstrap = directory / "envoy.json"
    bootstrap.write_text(json.dumps(build_bootstrap(directory / "admin.sock", directory / "ads.sock")))
    argv = envoy_arguments(envoy_binary(None), bootstrap, concurrency=1)
    if name_server:
        # In mounts of its own, where nobody else sees the other resolv.conf.
        resolvers = directory / "resolv.conf"
        resolvers.write_text(f"nameserver {name_server}\n")
        script = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'
        argv = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(resolvers), *argv]
    with (directory / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*argv, stdout=log, stderr=asyncio.subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()
