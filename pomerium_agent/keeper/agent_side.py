"""The keeper's side of one agent: how it is started on the kept sockets, and the line between the two."""

import os
import selectors
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pomerium_agent.keeper.children import Adopted, Argv, Kept, Patience, Process, spawn
from pomerium_agent.keeper.log import Log
from pomerium_agent.keeper.wire import Lines, Message

NOT_FOR_AGENT = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")  # systemd's talk is with the keeper


class AgentSide:
    """A kept agent and the line to the process that runs; the selector's data for the line is this object."""

    def __init__(
        self,
        argv: Argv,
        listening: Mapping[str, socket.socket],
        runtime_dir: Path,
        instance: str,
        selector: selectors.BaseSelector,
        patience: Patience,
        log: Log,
        *,
        comes: bool = False,
    ) -> None:
        self.kept = Kept("agent", self._start, patience, log)
        self._argv = argv
        self._listening = listening
        self._runtime_dir = runtime_dir
        self._instance = instance
        self._selector = selector
        self._log = log
        self.ready = False  # said that visitors are served
        self._comes = comes  # the first process comes to replace another agent
        self._link: socket.socket | None = None
        self._lines = Lines()

    @property
    def linked(self) -> bool:
        """Whether somebody listens."""
        return self._link is not None

    def leave(self) -> dict[str, Any]:
        """What the next keeper needs to go on with it; there is a process, and it is linked."""
        assert self.kept.process is not None and self._link is not None  # noqa: S101, PT018
        return {
            "pid": self.kept.process.pid,
            "began": self.kept.began,
            "link": self._link.fileno(),
            "heard": self._lines.pending.decode("latin-1"),
            "ready": self.ready,
        }

    def inherit(self, left: Mapping[str, Any]) -> None:
        """Go on with the agent that a keeper before us had."""
        self.kept.adopt(Adopted(left["pid"]), left["began"])
        self.ready = left["ready"]
        self._take_line(socket.socket(fileno=left["link"]))
        self._lines = Lines(left["heard"].encode("latin-1"))

    def read(self) -> Iterator[Message]:
        """What the agent has said since the last time."""
        if self._link is None:  # dropped earlier in this turn
            return
        try:
            data = self._link.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.drop_link()
            return
        yield from self._lines.feed(data)

    def tell(self, line: bytes) -> None:
        """Say it to the agent, if one listens."""
        if self._link is None:
            return
        try:
            self._link.send(line)
        except OSError as error:  # full, since the agent does not read, or gone, which we shall hear in a moment
            self._log.warning("event not delivered to the agent", reason=str(error))

    def drop_link(self) -> None:
        """The process is gone, or does not want to talk any more."""
        if self._link is not None:
            self._selector.unregister(self._link)
            self._link.close()
            self._link = None

    def _start(self) -> Process:
        ours, theirs = socket.socketpair()
        with theirs:
            handed_over = {name: sock.fileno() for name, sock in self._listening.items()}
            environ = {name: value for name, value in os.environ.items() if name not in NOT_FOR_AGENT} | {
                "RUNTIME_DIRECTORY": str(self._runtime_dir),
                "POMERIUM_AGENT_SOCKETS": ",".join(f"{name}:{fd}" for name, fd in handed_over.items()),
                "POMERIUM_AGENT_KEEPER_FD": str(theirs.fileno()),
                "POMERIUM_AGENT_INSTANCE": self._instance,
            }
            if self._comes:
                environ["POMERIUM_AGENT_SUCCESSOR"] = "yes"
            try:
                process = spawn(
                    self._argv(),
                    environ,
                    pass_fds=(*handed_over.values(), theirs.fileno()),
                    ignored=(signal.SIGHUP,),  # it may come before the agent has learned what to do with it
                )
            except BaseException:  # whatever it was: nobody else knows of this end of the line yet
                ours.close()
                raise
        self._comes = False
        self._take_line(ours)
        return process

    def _take_line(self, link: socket.socket) -> None:
        link.setblocking(False)
        self._link, self._lines = link, Lines()
        self._selector.register(link, selectors.EVENT_READ, self)
