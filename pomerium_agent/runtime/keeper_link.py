"""The agent's end of what it shares with its keeper: the sockets it inherits, and the line between the two.

The other end is `pomerium_agent.keeper`; what is said is written down in `keeper/wire.py`.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import structlog

from pomerium_agent.errors import EnvoyUnavailable, SettingsError
from pomerium_agent.runtime.latest import Latest

log = structlog.get_logger(__name__)

SOCKETS = "POMERIUM_AGENT_SOCKETS"
KEEPER_FD = "POMERIUM_AGENT_KEEPER_FD"
SUCCESSOR = "POMERIUM_AGENT_SUCCESSOR"  # set: another agent is in charge, and we come to take its place


def adopt_sockets(environ: Mapping[str, str]) -> Mapping[str, socket.socket]:
    """The listening sockets that the keeper bound and this process inherited, by name. The caller closes them.

    Raises SettingsError when there are none: `agent` is not a verb to call by hand.
    """
    adopted: dict[str, socket.socket] = {}
    for part in environ.get(SOCKETS, "").split(","):
        name, _, fd = part.partition(":")
        adopted[name] = _adopt(SOCKETS, fd)
    return adopted


def _adopt(variable: str, fd: str) -> socket.socket:
    try:
        sock = socket.socket(fileno=int(fd))
    except (ValueError, OSError) as error:
        raise SettingsError(
            f"{variable}: {fd!r} is not an inherited socket; the agent is started by `pomerium-agent run`"
        ) from error
    sock.setblocking(False)
    sock.set_inheritable(False)
    return sock


class Charge(NamedTuple):
    """We are in charge. `ready`: visitors were served before us; `alone`: the agent before us is not there any more."""

    ready: bool
    alone: bool


class KeeperLink:
    """The line to the keeper. Open it with `open_keeper_link`.

    `envoy_pid` is the process id of the Envoy that runs, and 0 while none does; `draining` says that the end is near.

    When we come to take another agent's place: `charge` says that we have it. When another comes to take ours: `hold`
    says that nothing is to be written, `resumed` counts how often that came to nothing, `succeeded` says that it did.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, successor: bool = False) -> None:
        self.successor = successor
        self.charge: Latest[Charge | None] = Latest(None if successor else Charge(ready=False, alone=True))
        self.hold: Latest[bool] = Latest(False)
        self.resumed: Latest[int] = Latest(0)
        self.succeeded: Latest[bool] = Latest(False)
        self.envoy_pid: Latest[int] = Latest(0)
        self.draining: Latest[bool] = Latest(False)
        self._reader = reader
        self._writer = writer
        self._gone = asyncio.Event()
        self._requests = 0
        self._answers: dict[int, asyncio.Future[int]] = {}

    async def start_envoy(self, argv: Sequence[str], bootstrap: Path, *, hot: bool = False) -> int:
        """Have the keeper run this Envoy, or adopt it if it runs already; return its process id.

        With `hot` it takes over from another one that runs, whose process id is returned, and follows in
        `envoy_pid`; `argv` then leaves to the keeper what hot restart needs.

        Waits as long as it takes, which is long while an Envoy that keeps failing is waited for. Raises
        EnvoyUnavailable when the keeper refuses or is gone.
        """
        if self._gone.is_set():
            raise EnvoyUnavailable("the keeper is gone")
        self._requests += 1
        request = self._requests
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._answers[request] = answer
        try:
            await self._say(
                {"op": "envoy", "argv": list(argv), "bootstrap": str(bootstrap), "hot": hot, "request": request}
            )
            return await answer
        finally:
            self._answers.pop(request, None)

    async def ready(self) -> None:
        """Tell the keeper that Envoy has acknowledged its first configuration."""
        await self._say({"op": "ready"})

    async def prepared(self) -> None:
        """Tell the keeper that we can take the other agent's place."""
        await self._say({"op": "prepared"})

    async def serving(self) -> None:
        """Tell the keeper that we have taken it."""
        await self._say({"op": "serving"})

    async def held(self) -> None:
        """Tell the keeper that we write nothing any more."""
        await self._say({"op": "held"})

    async def left(self) -> None:
        """Tell the keeper that nothing keeps us."""
        await self._say({"op": "left"})

    async def wait_gone(self) -> None:
        """Wait until the keeper is gone, which is the sign to stop."""
        await self._gone.wait()

    async def _say(self, message: dict[str, object]) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")
        try:
            await self._writer.drain()
        except ConnectionError:
            return  # `listen` hears it too, and tells everybody

    async def listen(self) -> None:
        """Hear the keeper out; returns when it is gone."""
        try:
            while line := await self._reader.readline():
                self._hear(json.loads(line))
        except ConnectionError as error:
            log.debug("keeper link broken", reason=str(error))
        self._gone.set()
        self.envoy_pid.set(0)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(EnvoyUnavailable("the keeper is gone"))

    def _hear(self, said: dict[str, object]) -> None:
        request = said.get("request")
        match said:
            case {"event": "envoy", "pid": int(pid)}:
                self.envoy_pid.set(pid)
                for number, answer in self._answers.items():
                    if isinstance(request, int) and number <= request and not answer.done():
                        answer.set_result(pid)
            case {"event": "envoy-refused", "reason": str(reason)}:
                asked = self._answers.get(request) if isinstance(request, int) else None
                if request is None:
                    log.error("envoy is not replaced; the one before serves on", reason=reason)
                elif asked is not None and not asked.done():
                    asked.set_exception(EnvoyUnavailable(f"the keeper cannot start Envoy: {reason}"))
            case {"event": "draining"}:
                self.draining.set(True)
            case {"event": "charge"}:
                self.charge.set(Charge(ready=bool(said.get("ready")), alone=bool(said.get("alone"))))
            case {"event": "hold"}:
                self.hold.set(True)
            case {"event": "resume"}:
                self.hold.set(False)
                self.resumed.set(self.resumed.value + 1)
            case {"event": "succeeded"}:
                self.succeeded.set(True)
            case _:
                log.warning("unknown event from the keeper", received=said)


@asynccontextmanager
async def open_keeper_link(environ: Mapping[str, str]) -> AsyncIterator[KeeperLink]:
    """The line to the keeper that started us. Raises SettingsError when nobody did."""
    reader, writer = await asyncio.open_unix_connection(sock=_adopt(KEEPER_FD, environ.get(KEEPER_FD, "")))
    link = KeeperLink(reader, writer, successor=bool(environ.get(SUCCESSOR)))
    try:
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(link.listen())
            yield link
            listening.cancel()
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
