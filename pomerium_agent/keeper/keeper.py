"""The parent of agent and Envoy: holds the sockets between them, starts both, restarts either, stops both in order.

One loop, no threads, nothing that can hang for long. It wakes for a signal, a line from the agent, or a time that
has come; everything else is in the state of two `Kept` children (architecture.md 1, routes.md 12.2).

The stop, in order: Envoy takes leave of its clients and finishes what is in flight, the agent stops, Envoy stops.
"""

import hashlib
import os
import selectors
import signal
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pomerium_agent.keeper.admin import drain_listeners, requests_in_flight
from pomerium_agent.keeper.children import Kept, Patience, Process, adopt_orphans, reap, spawn
from pomerium_agent.keeper.log import Log
from pomerium_agent.keeper.notify import Notifier
from pomerium_agent.keeper.signals import read_signals, signal_pipe
from pomerium_agent.keeper.sockets import ENVOY_ADMIN, open_runtime_dir
from pomerium_agent.keeper.wire import Garbage, Lines, Ready, StartEnvoy, draining_event, envoy_event, refusal_event
from pomerium_agent.settings import Settings

FINAL_EXIT_CODES = (2, 3)  # settings, refused: another try would end the same way
ENVOY_ENVIRONMENT = ("PATH", "TZ", "TMPDIR")
NOT_FOR_AGENT = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")  # systemd's talk is with the keeper
LOOK_AGAIN = 0.1  # seconds between two looks at the requests in flight while draining
AFTER_KILL = 5.0  # seconds for the kernel to end what was killed


def run_keeper(settings: Settings, *, agent_argv: Sequence[str], patience: Patience | None = None) -> int:
    """Keep an agent and an Envoy running until told to stop; return the exit code of the whole.

    0 after SIGTERM or SIGINT; 2 or 3 when the agent ended with that code. Blocks; call it from the main thread.
    Raises SettingsError when the runtime directory cannot be used.
    """
    log = Log(settings.log_level)
    with ExitStack() as stack:
        pipe = stack.enter_context(signal_pipe())
        listening = stack.enter_context(open_runtime_dir(settings.runtime_dir))
        selector = stack.enter_context(selectors.DefaultSelector())
        keeper = Keeper(settings.runtime_dir, listening, agent_argv, pipe, selector, patience or Patience(), log)
        stack.callback(keeper.close)
        adopt_orphans()
        return keeper.run()


class Keeper:
    """The loop and what it holds."""

    def __init__(
        self,
        runtime_dir: Path,
        listening: Mapping[str, socket.socket],
        agent_argv: Sequence[str],
        pipe: int,
        selector: selectors.BaseSelector,
        patience: Patience,
        log: Log,
    ) -> None:
        self._runtime_dir = runtime_dir
        self._listening = listening
        self._agent_argv = agent_argv
        self._pipe = pipe
        self._selector = selector
        self._patience = patience
        self._log = log
        self._notifier = Notifier(os.environ)
        self._sign_of_life_at = None if self._notifier.watchdog_seconds is None else 0.0
        self._instance = str(uuid.uuid4())
        self._agent = Kept("agent", self._start_agent, patience, log)
        self._envoy = Kept("envoy", self._start_envoy, patience, log)
        self._wanted_envoy: StartEnvoy | None = None
        self._envoy_digest = b""
        self._unanswered: int | None = None  # the request that the next start of Envoy answers
        self._link: socket.socket | None = None
        self._lines = Lines()
        self._exit_code: int | None = None  # set: we are stopping
        self._stop_signals = 0

    @property
    def _forced(self) -> bool:
        return self._stop_signals > 1

    def run(self) -> int:
        """Until told to stop, then in order."""
        self._selector.register(self._pipe, selectors.EVENT_READ, self._on_signals)
        self._log.info("keeper started", pid=os.getpid(), runtime_dir=self._runtime_dir)
        self._agent.begin(time.monotonic(), self._patience.agent_stop)
        while self._exit_code is None:
            self._turn()
        self._stop()
        self._log.info("keeper stopped", code=self._exit_code)
        return self._exit_code

    def close(self) -> None:
        """Leave nothing behind, also after a bug: what still runs is killed."""
        for kept in (self._agent, self._envoy):
            if kept.process is not None:
                kept.process.kill()
                kept.process.wait()
        self._drop_link()

    # The loop.

    def _turn(self, until: float | None = None) -> None:
        """Do what is due, then wait for something to happen, at most until `until`."""
        now = time.monotonic()
        if self._sign_of_life_at is not None and now >= self._sign_of_life_at:
            self._notifier.alive()
            self._sign_of_life_at = now + (self._notifier.watchdog_seconds or 0.0)
        for kept in (self._agent, self._envoy):
            kept.turn(now)
        times = (until, self._agent.next_at, self._envoy.next_at, self._sign_of_life_at)
        first = min((at for at in times if at is not None), default=None)
        for key, _ in self._selector.select(None if first is None else max(0.0, first - time.monotonic())):
            handle: Callable[[], None] = key.data
            handle()

    def _on_signals(self) -> None:
        for number in read_signals(self._pipe):
            if number == signal.SIGCHLD:
                continue
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                self._log.info("signal passed on", signal=name)
                self._agent.signal(signal.SIGHUP)
                continue
            self._stop_signals += 1
            self._log.info("stopping at once" if self._forced else "stopping", signal=name)
            self._exit_code = 0 if self._exit_code is None else self._exit_code
        self._reap()

    def _reap(self) -> None:
        now = time.monotonic()
        running = [kept.process for kept in (self._agent, self._envoy) if kept.process is not None]
        for process in reap(running):
            if process is self._agent.process:
                self._drop_link()
                if process.returncode in FINAL_EXIT_CODES:
                    self._agent.forget()
                    self._exit_code = process.returncode if self._exit_code is None else self._exit_code
                self._agent.ended(now)
            else:
                self._envoy.ended(now)
                self._tell(envoy_event(0, None))

    # Agent.

    def _start_agent(self) -> Process:
        ours, theirs = socket.socketpair()
        with theirs:
            handed_over = {name: sock.fileno() for name, sock in self._listening.items()}
            environ = {name: value for name, value in os.environ.items() if name not in NOT_FOR_AGENT} | {
                "RUNTIME_DIRECTORY": str(self._runtime_dir),
                "POMERIUM_AGENT_SOCKETS": ",".join(f"{name}:{fd}" for name, fd in handed_over.items()),
                "POMERIUM_AGENT_KEEPER_FD": str(theirs.fileno()),
                "POMERIUM_AGENT_INSTANCE": self._instance,
            }
            try:
                process = spawn(
                    self._agent_argv,
                    environ,
                    pass_fds=(*handed_over.values(), theirs.fileno()),
                    ignored=(signal.SIGHUP,),  # it may come before the agent has learned what to do with it
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self._link, self._lines = ours, Lines()
        self._selector.register(ours, selectors.EVENT_READ, self._on_agent)
        return process

    def _drop_link(self) -> None:
        if self._link is not None:
            self._selector.unregister(self._link)
            self._link.close()
            self._link = None
            self._unanswered = None

    def _on_agent(self) -> None:
        if self._link is None:  # dropped earlier in this turn
            return
        try:
            data = self._link.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop_link()
            return
        for message in self._lines.feed(data):
            match message:
                case StartEnvoy():
                    self._want_envoy(message)
                case Ready():
                    self._log.info("ready")
                    self._notifier.ready()
                case Garbage(reason):
                    self._log.warning("line from the agent ignored", reason=reason)

    def _tell(self, line: bytes) -> None:
        if self._link is None:
            return
        try:
            self._link.send(line)
        except OSError as error:  # full, since the agent does not read, or gone, which we shall hear in a moment
            self._log.warning("event not delivered to the agent", reason=str(error))

    # Envoy.

    def _want_envoy(self, wanted: StartEnvoy) -> None:
        """Adopt the Envoy that runs if it is the one wanted; else start it, in place of the one that runs."""
        if self._exit_code is not None:
            return
        try:
            digest = _digest(wanted.bootstrap)
        except OSError as error:
            reason = f"cannot read the bootstrap file {wanted.bootstrap}: {error.strerror}"
            self._log.error("envoy refused", reason=reason)
            self._tell(refusal_event(reason, wanted.request))
            return
        running = self._wanted_envoy
        same = running is not None and (running.argv, self._envoy_digest) == (wanted.argv, digest)
        self._wanted_envoy = wanted
        if same and self._envoy.process is not None and not self._envoy.coming:
            self._log.info("envoy adopted", pid=self._envoy.process.pid)
            self._tell(envoy_event(self._envoy.process.pid, wanted.request))
            return
        self._unanswered = wanted.request
        if not (same and self._envoy.coming):
            self._envoy_digest = digest
            self._envoy.begin(time.monotonic(), self._patience.envoy_stop)

    def _start_envoy(self) -> Process:
        assert self._wanted_envoy is not None  # noqa: S101
        self._envoy_digest = _digest(self._wanted_envoy.bootstrap)
        environ = {name: os.environ[name] for name in ENVOY_ENVIRONMENT if name in os.environ}
        process = spawn(self._wanted_envoy.argv, environ, dies_with_us=True)
        self._tell(envoy_event(process.pid, self._unanswered))
        self._unanswered = None
        return process

    # The end.

    def _stop(self) -> None:
        self._notifier.stopping()
        self._agent.forget()
        self._envoy.forget()
        self._give_notice()
        self._drain()
        for kept, stop_within in ((self._agent, self._patience.agent_stop), (self._envoy, self._patience.envoy_stop)):
            kept.end(time.monotonic(), stop_within)
            self._wait_for(kept, time.monotonic() + stop_within + AFTER_KILL)

    def _give_notice(self) -> None:
        """Readiness goes first; everything is served as before until balancers have had time to see it."""
        deadline = time.monotonic() + self._patience.notice
        self._tell(draining_event())
        while self._envoy.process is not None and not self._forced and time.monotonic() < deadline:
            self._turn(until=deadline)

    def _drain(self) -> None:
        """Let Envoy finish what is in flight, as far as patience goes."""
        deadline = time.monotonic() + self._patience.drain
        admin = self._runtime_dir / ENVOY_ADMIN
        if self._envoy.process is None or self._forced or not drain_listeners(admin):
            return
        while self._envoy.process is not None and not self._forced and time.monotonic() < deadline:
            if not requests_in_flight(admin):
                return
            self._turn(until=min(deadline, time.monotonic() + LOOK_AGAIN))

    def _wait_for(self, kept: Kept, deadline: float) -> None:
        while kept.process is not None and time.monotonic() < deadline:
            if self._forced:
                self._agent.kill()
                self._envoy.kill()
            self._turn(until=deadline)


def _digest(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()
