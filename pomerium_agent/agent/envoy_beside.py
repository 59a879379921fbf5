"""The Envoy beside us: having the keeper start it, and being there when it asks for its configuration."""

import asyncio
import hashlib
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.doors import Doors, named, own_name
from pomerium_agent.agent.feed import watch_envoy
from pomerium_agent.envoy.admin import EnvoyAdmin, open_admin
from pomerium_agent.envoy.ads_server import AdsServer, serve_ads
from pomerium_agent.envoy.binary import envoy_binary
from pomerium_agent.envoyconfig import LocalAddresses, build_bootstrap, envoy_arguments
from pomerium_agent.errors import EnvoyUnavailable
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.keeper_link import KeeperLink
from pomerium_agent.settings import Settings
from pomerium_agent.zero import trusted_roots

ADMIN_SOCKET = "envoy-admin.sock"  # by the same name in keeper.sockets


@asynccontextmanager
async def run_envoy(
    settings: Settings, board: Board, keeper: KeeperLink, doors: Doors, clock: Clock
) -> AsyncIterator[tuple[AdsServer, EnvoyAdmin]]:
    """Have the keeper start Envoy, or adopt the one that runs; it finds us when the doors open."""
    runtime = settings.runtime_dir
    admin_socket, ads_socket = runtime / ADMIN_SOCKET, runtime / "ads.sock"
    try:
        bootstrap = await asyncio.to_thread(_write_bootstrap, runtime, admin_socket, ads_socket)
    except OSError as error:
        raise EnvoyUnavailable(
            f"cannot write in {runtime}, where Envoy's start-up file belongs: {error.strerror}"
        ) from error
    argv = envoy_arguments(
        envoy_binary(settings.envoy_path), bootstrap, concurrency=settings.local.concurrency, hot=True
    )
    async with (
        serve_ads(own_name(ads_socket), clock) as ads,
        doors.hang(named(ads_socket, keeper.resumed)),
        open_admin(admin_socket) as admin,
        asyncio.TaskGroup() as group,
    ):
        board.ads, board.admin = ads, admin
        await keeper.start_envoy(argv, bootstrap, hot=True)
        watching = group.create_task(watch_envoy(admin, board.health, clock), name="watch-envoy")
        yield ads, admin
        watching.cancel()


async def local_addresses(runtime: Path, metrics_socket: str) -> LocalAddresses:
    """Where Envoy finds what is on this machine."""
    return LocalAddresses(
        authorize_socket=str(runtime / "authorize.sock"),
        pages_socket=str(runtime / "pages.sock"),
        metrics_socket=str(runtime / metrics_socket),
        admin_socket=str(runtime / ADMIN_SOCKET),
        system_ca=(await asyncio.to_thread(trusted_roots)).decode("ascii", "ignore"),
        ipv6=await asyncio.to_thread(_ipv6_works),
    )


def _write_bootstrap(runtime: Path, admin_socket: Path, ads_socket: Path) -> Path:
    """Write the file that only we may read, whole or not at all; returns where.

    Named by what is in it: an agent with another one, which may come to nothing, leaves alone what the Envoy that
    runs would be started from again.
    """
    text = json.dumps(build_bootstrap(admin_socket, ads_socket), indent=1, sort_keys=True)
    path = runtime / f"envoy-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"
    temporary = path.with_suffix(f".{os.getpid()}")
    with open(temporary, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:  # mode at birth
        file.write(text)
    temporary.replace(path)
    return path


def _ipv6_works() -> bool:
    """Whether this machine can bind an IPv6 address at all."""
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
