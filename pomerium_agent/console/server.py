"""The console as one running thing: API, Connect and OTLP, the control socket, and the upkeep behind them."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import aiohttp
import grpc
import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware

from pomerium_agent.console.api import ClusterApi
from pomerium_agent.console.bearers import BEARER_LIFE, LINK_LIFE, Signer
from pomerium_agent.console.ca import CA_FILE, write_ca_file
from pomerium_agent.console.clusters import renew_certificates
from pomerium_agent.console.connect import ConnectService
from pomerium_agent.console.control import SOCKET, Answer, control_socket, only_one, serve_control
from pomerium_agent.console.endpoints import DEFAULT_ADDRESS, DEFAULT_GRPC_ADDRESS, PREFIX, remember
from pomerium_agent.console.gate import Gate
from pomerium_agent.console.login.desk import Desk
from pomerium_agent.console.login.door import Door
from pomerium_agent.console.login.manage import drop_old_keys
from pomerium_agent.console.login.sessions import Sessions
from pomerium_agent.console.nudges import Nudges
from pomerium_agent.console.otlp import Receiver
from pomerium_agent.console.presence import Presence
from pomerium_agent.console.status import FORGET_AFTER
from pomerium_agent.console.store import Store, open_store
from pomerium_agent.errors import SettingsError
from pomerium_agent.pb.pomerium import connect_pb2_grpc
from pomerium_agent.runtime.clock import Clock, SystemClock

log = structlog.get_logger(__name__)

SAFETY_CHECK = 5.0  # seconds between looks at whether another process wrote without poking
SEEN_EVERY = timedelta(minutes=1)
RENEW_EVERY = timedelta(hours=1)
LOGIN_UPKEEP = timedelta(minutes=1)
STOP_GRACE = 1.0  # seconds for calls under way
MAX_LINE = 48 * 1024  # of a request; what clusters seal into the URL of a sign-in is up to 16 KiB (authenticate 11)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How a console is served. Ports may be 0: any free one."""

    data_dir: Path
    address: str = DEFAULT_ADDRESS
    grpc_address: str = DEFAULT_GRPC_ADDRESS
    public_url: str = ""  # as replicas reach the API, when that differs: scheme and host
    public_grpc_url: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    plaintext: bool = False  # beyond loopback without TLS, since something in front of us ends it
    bearer_life: timedelta = BEARER_LIFE
    link_life: timedelta = LINK_LIFE


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """A console that answers. The URLs go into the environment of a replica."""

    data_dir: Path
    cluster_api: str
    connect: str  # the OTLP receiver listens there too
    ca_file: Path
    store: Store = field(repr=False)
    nudges: Nudges = field(repr=False)
    presence: Presence = field(repr=False)

    @property
    def control_socket(self) -> Path:
        return self.data_dir / SOCKET

    def describe(self) -> Answer:
        """What the ready line, the ready file and the control socket say."""
        return {
            "pid": os.getpid(),
            "data_dir": str(self.data_dir),
            "cluster_api": self.cluster_api,
            "connect": self.connect,
            "otel": self.connect,
            "ca_file": str(self.ca_file),
            "control_socket": str(self.control_socket),
        }


@asynccontextmanager
async def serve_console(options: ServeOptions, *, clock: Clock | None = None) -> AsyncIterator[Console]:
    """Serve a data directory, made if need be; yields when everything answers. SettingsError when it cannot."""
    clock = clock or SystemClock()
    tls = _read_tls(options)
    held = ExitStack()
    try:
        store, control = await asyncio.to_thread(_prepare, options, held, clock)
        signer = Signer(store.database.seal, bearer_life=options.bearer_life, link_life=options.link_life)
        gate, nudges, presence = Gate(store, signer, clock), Nudges(store), Presence(store, clock)
        api = ClusterApi(gate, public_url=options.public_url)
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http,
            _serve_http(api, Door(Desk(store, http, clock)).middleware(), options, tls) as http_port,
            _serve_grpc(ConnectService(gate, nudges, presence), Receiver(gate), options, tls) as grpc_port,
        ):
            console = Console(
                data_dir=options.data_dir,
                cluster_api=(options.public_url.rstrip("/") or _url(options.address, http_port, tls)) + PREFIX,
                connect=options.public_grpc_url.rstrip("/") or _url(options.grpc_address, grpc_port, tls),
                ca_file=options.data_dir / CA_FILE,
                store=store,
                nudges=nudges,
                presence=presence,
            )
            await asyncio.to_thread(remember, store, cluster_api=console.cluster_api, connect=console.connect)
            async with _upkeep(console, control, clock):
                yield console
    finally:
        await asyncio.to_thread(held.close)


def _prepare(options: ServeOptions, held: ExitStack, clock: Clock) -> tuple[Store, socket.socket]:
    """Everything that touches the disk before anybody may call."""
    store = held.enter_context(open_store(options.data_dir))
    held.enter_context(only_one(options.data_dir))
    control = held.enter_context(control_socket(options.data_dir))
    store.sightings.start_over()
    store.sightings.forget(clock.now() - FORGET_AFTER)
    renew_certificates(store, clock.now())
    write_ca_file(store, clock.now())
    return store, control


@asynccontextmanager
async def _upkeep(console: Console, control: socket.socket, clock: Clock) -> AsyncIterator[None]:
    """Everything that goes on beside the answers. When a part of it dies, so does the console."""
    store, nudges = console.store, console.nudges
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(serve_control(control, nudges, console.describe)),
            group.create_task(console.presence.write()),
            group.create_task(_watch_database(store, nudges, clock)),
            group.create_task(_note_who_is_there(store, clock)),
            group.create_task(_renew(store, nudges, clock)),
            group.create_task(_keep_up_login(store, nudges, clock)),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def _serve_http(
    api: ClusterApi, login: Middleware, options: ServeOptions, tls: "_Tls | None"
) -> AsyncIterator[int]:
    with _listen("--address", options.address) as bound:
        runner = web.AppRunner(
            api.application(login), access_log=None, shutdown_timeout=STOP_GRACE, max_line_size=MAX_LINE
        )
        await runner.setup()
        try:
            await web.SockSite(runner, bound, ssl_context=tls.context if tls else None).start()
            yield int(bound.getsockname()[1])
        finally:
            await runner.cleanup()


@asynccontextmanager
async def _serve_grpc(
    connect: ConnectService, receiver: Receiver, options: ServeOptions, tls: "_Tls | None"
) -> AsyncIterator[int]:
    server = grpc.aio.server(
        options=(
            # With it, a second console could take half of the connections of the first unnoticed.
            ("grpc.so_reuseport", 0),
            # Replicas ping once a minute (zero link 6); left to itself, gRPC hangs up on who pings an idle stream.
            ("grpc.http2.max_ping_strikes", 0),
            ("grpc.keepalive_permit_without_calls", 1),
        )
    )
    connect_pb2_grpc.add_ConnectServicer_to_server(connect, server)
    server.add_generic_rpc_handlers(receiver.handlers())
    host, port = _split("--grpc-address", options.grpc_address)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if tls is None:
            bound = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, grpc.ssl_server_credentials([(tls.key, tls.chain)]))
    except RuntimeError as error:
        raise SettingsError(f"--grpc-address: cannot listen on {options.grpc_address}: is it in use?") from error
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(STOP_GRACE)


# --- upkeep -----------------------------------------------------------------------------------------


async def _watch_database(store: Store, nudges: Nudges, clock: Clock) -> NoReturn:
    """Notice what another process wrote without poking: a verb that was killed, or a restored row."""
    seen = await asyncio.to_thread(store.database.foreign_version)
    while True:
        await clock.sleep(SAFETY_CHECK)
        now = await asyncio.to_thread(store.database.foreign_version)
        if now != seen:
            seen = now
            await nudges.refresh_all()


async def _note_who_is_there(store: Store, clock: Clock) -> NoReturn:
    """So that after a crash of the console, `last seen` is about right; who is silent for too long is forgotten."""
    while True:
        await clock.sleep(SEEN_EVERY.total_seconds())
        await asyncio.to_thread(store.sightings.still_there, clock.now())
        await asyncio.to_thread(store.sightings.forget, clock.now() - FORGET_AFTER)


async def _renew(store: Store, nudges: Nudges, clock: Clock) -> NoReturn:
    while True:
        await clock.sleep(RENEW_EVERY.total_seconds())
        for cluster in await asyncio.to_thread(renew_certificates, store, clock.now()):
            log.info("certificate renewed", cluster=cluster.id, domain=cluster.domain)
            await nudges.refresh(cluster.id)


async def _keep_up_login(store: Store, nudges: Nudges, clock: Clock) -> NoReturn:
    """Sessions and keys that are over are forgotten."""
    sessions = Sessions(store.database)
    while True:
        await clock.sleep(LOGIN_UPKEEP.total_seconds())
        now = clock.now()
        await asyncio.to_thread(sessions.close_expired, now)
        for cluster in await asyncio.to_thread(drop_old_keys, store, now):
            log.info("old login key dropped", cluster=cluster.id, version=cluster.version)
            await nudges.refresh(cluster.id)


# --- addresses and certificates ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Tls:
    chain: bytes
    key: bytes = field(repr=False)
    context: ssl.SSLContext


def _read_tls(options: ServeOptions) -> _Tls | None:
    if options.tls_cert is None and options.tls_key is None:
        for setting, address in (("--address", options.address), ("--grpc-address", options.grpc_address)):
            if not options.plaintext and not _loopback(_split(setting, address)[0]):
                raise SettingsError(
                    f"{setting}: {address} can be reached from other machines, and tokens would travel in the clear; "
                    "give --tls-cert and --tls-key, or --plaintext when a proxy in front of the console ends TLS"
                )
        return None
    if options.tls_cert is None or options.tls_key is None:
        raise SettingsError("--tls-cert and --tls-key belong together; give both")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(options.tls_cert, options.tls_key)
        return _Tls(options.tls_cert.read_bytes(), options.tls_key.read_bytes(), context)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"--tls-cert {options.tls_cert} with --tls-key {options.tls_key}: {error}") from error


def _split(setting: str, address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"{setting}: {address!r} is not host:port, for example 127.0.0.1:8700")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)  # noqa: S104  # as `:443` means everywhere


def _loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _listen(setting: str, address: str) -> socket.socket:
    host, port = _split(setting, address)
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024
        )
    except OSError as error:
        raise SettingsError(f"{setting}: cannot listen on {address}: {error.strerror or error}") from error


def _url(address: str, port: int, tls: _Tls | None) -> str:
    host, _ = _split("address", address)
    if host in ("0.0.0.0", "::"):  # noqa: S104  # compared, not bound
        host = socket.gethostname()
    return f"{'https' if tls else 'http'}://" + (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
