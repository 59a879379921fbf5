"""Where the service listens: always on a unix socket, and on an address while somebody wants one."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import grpc
import structlog

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.service.broker import MAX_MESSAGE
from pomerium_agent.databroker.service.door import Door
from pomerium_agent.databroker.service.handlers import Services
from pomerium_agent.databroker.service.registry import Registry
from pomerium_agent.databroker.service.streams import USUAL, Limits, Streams
from pomerium_agent.errors import Retryable
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest

log = structlog.get_logger(__name__)

STOP_GRACE = 0.5  # seconds in which those who are told to come again may hear of it
REBIND_EVERY = 15.0  # seconds between tries of an address that could not be had
REBIND_FIRST = 0.25  # and between the first ones, while an agent before us may be about to give it up
FIRST_TRIES = 12
MOST_CALLS = 2000  # at once; one more is refused with RESOURCE_EXHAUSTED
OPTIONS = (
    ("grpc.so_reuseport", 0),  # with it, a second process could take half of the calls unnoticed
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_concurrent_streams", MOST_CALLS),  # on one connection; more wait at the client
    # Who is gone without a word is noticed; clients ping every six minutes, or more often (databroker 1).
    ("grpc.keepalive_time_ms", 120_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)


class AddressTaken(Retryable):
    """The address for clients outside cannot be had."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """An address to listen on. `certificates` are chains with keys, PEM, the first for who asks for no name."""

    host: str  # empty: every interface
    port: int  # 0: any, which is for tests
    certificates: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # none: no TLS

    @property
    def authority(self) -> str:
        host = self.host or "[::]"
        return f"[{host}]:{self.port}" if ":" in self.host else f"{host}:{self.port}"


@dataclass(slots=True, kw_only=True)
class Service:
    """The databroker for clients outside of this process."""

    services: Services
    key: bytes = field(repr=False)
    clock: Clock
    limits: Limits
    port: Latest[int] = field(default_factory=lambda: Latest(0))  # on which TCP is served; 0: on none


@asynccontextmanager
async def serve_databroker(
    backend: Backend,
    *,
    key: bytes,
    socket_path: Path,
    wanted: Latest[Listener | None],
    clock: Clock,
    health: Health,
    envoy_version: str = "",
    limits: Limits = USUAL,
) -> AsyncIterator[Service]:
    """Serve `backend` on `socket_path`, for our user and root, and on the address that is `wanted`, until the end.

    Another address, or another certificate, opens the listener anew: who is connected to it has to connect again.
    An address that cannot be had is tried again every few seconds, and the health check says so meanwhile.
    """
    registry = Registry(clock)
    services = Services(backend, registry, clock, envoy_version)
    service = Service(services=services, key=key, clock=clock, limits=limits)
    async with _serve_socket(service, socket_path), asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(registry.sweep(), name="registry-sweep"),
            group.create_task(_follow_address(service, wanted, health), name="databroker-tcp"),
        ]
        try:
            yield service
        finally:
            for task in tasks:
                task.cancel()


@asynccontextmanager
async def _serve_socket(service: Service, path: Path) -> AsyncIterator[None]:
    """Listen on the unix socket, which no one else can open, not even for the moment in which it is made."""
    streams = Streams(service.limits)
    server = _server(service, streams, private=True)
    # Made in a directory of its own, where the socket gets its mode before it gets its place.
    born = Path(await asyncio.to_thread(tempfile.mkdtemp, "", "db-", path.parent))
    try:
        server.add_insecure_port(f"unix:{born / 's'}")
        await asyncio.to_thread(_move_private, born / "s", path)
    finally:
        await asyncio.to_thread(born.rmdir)
    await server.start()
    ours = await asyncio.to_thread(path.lstat)
    try:
        yield
    finally:
        await _stop(server, streams)
        await asyncio.to_thread(_unlink_own, path, ours)


async def _follow_address(service: Service, wanted: Latest[Listener | None], health: Health) -> NoReturn:
    said = False  # anything, to the health checks
    tries = 0
    while True:
        listener = wanted.value
        if listener is None:
            if said:  # what was wrong with another address is over
                health.running(Check.DATABROKER_SERVICE)
            await _until_other(wanted, listener)
            continue
        said = True
        try:
            async with _serve_address(service, listener):
                health.running(Check.DATABROKER_SERVICE, address=listener.authority)
                await _until_other(wanted, listener)
        except AddressTaken as error:
            tries += 1
            if tries > FIRST_TRIES:
                health.failed(Check.DATABROKER_SERVICE, str(error))
            try:
                async with asyncio.timeout(REBIND_FIRST if tries <= FIRST_TRIES else REBIND_EVERY):
                    await _until_other(wanted, listener)
            except TimeoutError:
                continue


async def _until_other(wanted: Latest[Listener | None], listener: Listener | None) -> None:
    async with aclosing(wanted.follow()) as values:
        async for value in values:
            if value != listener:
                return


@asynccontextmanager
async def _serve_address(service: Service, listener: Listener) -> AsyncIterator[None]:
    """Listen on TCP. Raises AddressTaken when the address cannot be had."""
    streams = Streams(service.limits)
    server = _server(service, streams, private=False)
    try:
        if listener.certificates:
            pairs = [(key.encode(), chain.encode()) for chain, key in listener.certificates]
            port = server.add_secure_port(listener.authority, grpc.ssl_server_credentials(pairs))
        else:
            port = server.add_insecure_port(listener.authority)
    except RuntimeError:
        raise AddressTaken(
            f"cannot listen on {listener.authority} for databroker clients; free the port, or choose another with "
            f"GRPC_ADDRESS or grpc_address. It is tried again every few seconds"
        ) from None
    await server.start()
    log.info("databroker served", address=listener.authority, port=port, tls=bool(listener.certificates))
    service.port.set(port)
    try:
        yield
    finally:
        service.port.set(0)
        await _stop(server, streams)


def _server(service: Service, streams: Streams, *, private: bool) -> grpc.aio.Server:
    door = Door(service.key, service.clock, private=private)
    server = grpc.aio.server(interceptors=[door], options=OPTIONS, maximum_concurrent_rpcs=MOST_CALLS)
    server.add_generic_rpc_handlers(tuple(service.services.handlers(streams)))
    return server


async def _stop(server: grpc.aio.Server, streams: Streams) -> None:
    streams.close()
    await server.stop(STOP_GRACE)


def _move_private(born: Path, path: Path) -> None:
    born.chmod(0o600)
    born.replace(path)


def _unlink_own(path: Path, ours: os.stat_result) -> None:
    """An agent after us may have put its own socket there already."""
    try:
        found = path.lstat()
        if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
            path.unlink()
    except FileNotFoundError:
        pass
