"""The socket on which command line verbs poke a running console after they have written to its database.

One JSON object a line, each answered by one. Only the owner of the data directory can reach it (0700, 0600).
"""

import asyncio
import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pomerium_agent.console.nudges import Nudges
from pomerium_agent.console.telemetry import telemetry_request
from pomerium_agent.errors import SettingsError

SOCKET = "console.sock"
LOCK = "console.lock"
MAX_LINE = 64 * 1024
PATIENCE = 2.0  # seconds a verb waits for the console's answer
_LONGEST_PATH = 100  # bytes of a socket's path that every Unix takes

Answer = dict[str, object]


def ask(data_dir: Path, question: Mapping[str, object]) -> Answer | None:
    """Ask the console of this data directory; None when none is running."""
    try:
        with _short_path(data_dir) as path, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(path)
            connection.sendall(json.dumps(question).encode() + b"\n")
            with connection.makefile("rb") as answers:
                line = answers.readline(MAX_LINE)
    except (FileNotFoundError, ConnectionError, TimeoutError):
        return None
    except OSError as error:
        raise SettingsError(f"the console's socket {data_dir / SOCKET} cannot be reached: {error}") from error
    answer = json.loads(line) if line else None
    return answer if isinstance(answer, dict) else None


def poke(data_dir: Path, cluster_id: str) -> bool:
    """Tell a running console that a cluster has changed. Whether there is one."""
    return ask(data_dir, {"op": "changed", "cluster": cluster_id}) is not None


@contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for one serving console; SettingsError when another has it."""
    path = data_dir / LOCK
    with path.open("a") as file:
        path.chmod(0o600)
        _lock(file, data_dir)
        yield


def _lock(file: IO[str], data_dir: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise SettingsError(f"{data_dir / LOCK} cannot be locked: {error}") from error
        raise SettingsError(
            f"another console already serves {data_dir}; stop it first, or give this one its own --data-dir"
        ) from error


@contextmanager
def control_socket(data_dir: Path) -> Iterator[socket.socket]:
    """The bound socket of a serving console, which holds `only_one`; removed again at the end."""
    place = data_dir / SOCKET
    place.unlink(missing_ok=True)  # left behind by a console that was killed
    with socket.socket(socket.AF_UNIX) as bound:
        with _short_path(data_dir) as path:
            bound.bind(path)
        place.chmod(0o600)
        bound.listen()
        bound.setblocking(False)
        try:
            yield bound
        finally:
            place.unlink(missing_ok=True)


@contextmanager
def _short_path(data_dir: Path) -> Iterator[str]:
    """A path to the socket that fits into the 108 bytes of an address, whatever the directory is called."""
    path = str(data_dir / SOCKET)
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield path
        return
    descriptor = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)


async def serve_control(bound: socket.socket, nudges: Nudges, describe: Callable[[], Answer]) -> None:
    """Answer until cancelled: `changed` wakes the streams of a cluster, `describe` says where we listen."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await _answer(await reader.readline(), nudges, describe)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, TimeoutError, ValueError):
            pass  # the verb went away, or never said a whole line; its next attempt is as good
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, sock=bound, limit=MAX_LINE)
    async with server:
        await server.serve_forever()


async def _answer(line: bytes, nudges: Nudges, describe: Callable[[], Answer]) -> Answer:
    question = json.loads(line)
    if not isinstance(question, dict):
        return {"error": "a question is one JSON object"}
    match question:
        case {"op": "changed", "cluster": str(cluster_id)}:
            await nudges.refresh(cluster_id)
            return {"ok": True}
        case {"op": "telemetry", "cluster": str(cluster_id), "envoy": list(envoy), "agent": list(agent)}:
            await nudges.ask_telemetry(cluster_id, telemetry_request(map(str, envoy), map(str, agent)))
            return {"ok": True}
        case {"op": "describe"}:
            return describe()
    return {"error": "unknown question"}
