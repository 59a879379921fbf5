"""What the agent is to Envoy and its checks, in a process of its own: ADS, sessions and authorization.

Arguments: a directory for the sockets, the port for Envoy, that of the upstream, and how many visitors there are.
Whoever connects to `revoke.sock` names a visitor, and gets the time at which they were signed out.
"""

import asyncio
import socket
import sys
import time
from pathlib import Path

import certifi
from cryptography.hazmat.primitives.asymmetric import ec

from bench.people import SHARED_KEY, compiled, gone, records
from pomerium_agent.agent.board import Board
from pomerium_agent.agent.feed import Feeder
from pomerium_agent.authorize import NO_RULES, Checker, Rules, serve_authorize
from pomerium_agent.authorize.from_config import RulesBuilder
from pomerium_agent.config import Compiled
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.envoy.ads_server import serve_ads
from pomerium_agent.envoyconfig import LocalAddresses
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.runtime.health import Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.log import configure_logging
from pomerium_agent.runtime.loop import run_on_best_loop
from pomerium_agent.sessions.access import track_access
from pomerium_agent.sessions.live import open_sessions
from pomerium_agent.sessions.signer import Signer

ADS, AUTHORIZE, PAGES, REVOKE, ADMIN = "ads.sock", "authorize.sock", "pages.sock", "revoke.sock", "admin.sock"


async def serve(directory: Path, port: int, upstream: int, visitors: int, system_ca: str) -> None:
    """Serve until killed; `system_ca` is PEM.

    `revoke.sock` is there once Envoy has the configuration, and says which loop this is.
    """
    clock, health = SystemClock(), Health()
    backend = MemoryBackend(clock)
    await backend.put(list(records(visitors)))
    rules: Latest[Rules] = Latest(NO_RULES)
    async with (
        open_sessions(backend, clock, health) as sessions,
        track_access(backend, clock) as access,
        serve_ads(directory / ADS, clock) as ads,
        asyncio.TaskGroup() as group,
    ):
        checker = Checker(rules, sessions, clock, access=access)
        async with serve_authorize(_listening(directory / AUTHORIZE), checker.check):
            board = Board(version="bench", instance="bench", health=health, keeper_pid=0, ads=ads)
            local = LocalAddresses(
                authorize_socket=str(directory / AUTHORIZE),
                pages_socket=str(directory / PAGES),
                system_ca=system_ca,
            )
            config = Latest[Compiled | None](compiled(port, upstream))
            builder = RulesBuilder(shared_key=SHARED_KEY, signer=Signer(ec.generate_private_key(ec.SECP256R1())))
            group.create_task(Feeder(config, ads, local, board, rules, builder=builder).run())
            async for digest in board.in_force.follow():
                if digest:
                    break

            async def revoke(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(f"{type(asyncio.get_running_loop()).__module__.partition('.')[0]}\n".encode())
                while line := await reader.readline():
                    began = time.monotonic()
                    await backend.put([gone(int(line))])
                    writer.write(f"{began}\n".encode())
                writer.close()

            async with await asyncio.start_unix_server(revoke, directory / REVOKE):
                await asyncio.Event().wait()


def _listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    sock.setblocking(False)
    return sock


if __name__ == "__main__":
    configure_logging("info", service="agent")
    trusted = Path(certifi.where()).read_text()
    run_on_best_loop(serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), trusted))
