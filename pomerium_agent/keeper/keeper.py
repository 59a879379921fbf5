"""The parent of agent and Envoy: holds the sockets between them, starts both, restarts either, stops both in order.

One loop, no threads, nothing that can hang for long. It wakes for a signal, a line from the agent, or a time that
has come; everything else is in the state of two `Kept` children (architecture.md 1, routes.md 12.2).

The stop, in order: Envoy takes leave of its clients and finishes what is in flight, the agent stops, Envoy stops.
"""

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
from pomerium_agent.keeper.agent_side import AgentSide
from pomerium_agent.keeper.children import Patience, adopt_orphans, reap
from pomerium_agent.keeper.envoy_side import EnvoySide
from pomerium_agent.keeper.log import Log
from pomerium_agent.keeper.notify import Notifier
from pomerium_agent.keeper.signals import read_signals, signal_pipe
from pomerium_agent.keeper.sockets import ENVOY_ADMIN, open_runtime_dir
from pomerium_agent.keeper.wire import Garbage, Ready, StartEnvoy, draining_event
from pomerium_agent.settings import Settings

FINAL_EXIT_CODES = (2, 3)  # settings, refused: another try would end the same way
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
        self._pipe = pipe
        self._selector = selector
        self._patience = patience
        self._log = log
        self._notifier = Notifier(os.environ)
        self._sign_of_life_at = None if self._notifier.watchdog_seconds is None else 0.0
        self._agent = AgentSide(agent_argv, listening, runtime_dir, str(uuid.uuid4()), selector, patience, log)
        self._envoy = EnvoySide(runtime_dir, patience, log)
        self._exit_code: int | None = None  # set: we are stopping
        self._stop_signals = 0

    @property
    def _forced(self) -> bool:
        return self._stop_signals > 1

    def run(self) -> int:
        """Until told to stop, then in order."""
        self._selector.register(self._pipe, selectors.EVENT_READ)
        self._log.info("keeper started", pid=os.getpid(), runtime_dir=self._runtime_dir)
        self._agent.kept.begin(time.monotonic(), self._patience.agent_stop)
        while self._exit_code is None:
            self._turn()
        self._stop()
        self._log.info("keeper stopped", code=self._exit_code)
        return self._exit_code

    def close(self) -> None:
        """Leave nothing behind, also after a bug: what still runs is killed."""
        agent = [] if self._agent.kept.process is None else [self._agent.kept.process]
        for process in (*agent, *self._envoy.running):
            process.kill()
            process.wait()
        self._envoy.sweep()
        self._agent.drop_link()

    # The loop.

    def _turn(self, until: float | None = None) -> None:
        """Do what is due, then wait for something to happen, at most until `until`."""
        now = time.monotonic()
        if self._sign_of_life_at is not None and now >= self._sign_of_life_at:
            self._notifier.alive()
            self._sign_of_life_at = now + (self._notifier.watchdog_seconds or 0.0)
        self._agent.kept.turn(now)
        self._envoy.turn(now)
        self._pass_on_news()
        times = (until, self._agent.kept.next_at, self._envoy.next_at, self._sign_of_life_at)
        first = min((at for at in times if at is not None), default=None)
        for key, _ in self._selector.select(None if first is None else max(0.0, first - time.monotonic())):
            if key.data is self._agent:
                self._on_agent()
            else:
                self._on_signals()
        self._pass_on_news()

    def _pass_on_news(self) -> None:
        for line in self._envoy.take_news():
            self._agent.tell(line)

    def _on_agent(self) -> None:
        for message in self._agent.read():
            match message:
                case StartEnvoy() if self._exit_code is None:
                    self._envoy.want(message)
                case Ready():
                    self._log.info("ready")
                    self._notifier.ready()
                case Garbage(reason):
                    self._log.warning("line from the agent ignored", reason=reason)
        if not self._agent.linked:
            self._envoy.forget_request()

    def _on_signals(self) -> None:
        for number in read_signals(self._pipe):
            if number == signal.SIGCHLD:
                continue
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                self._log.info("signal passed on", signal=name)
                self._agent.kept.signal(signal.SIGHUP)
                continue
            self._stop_signals += 1
            self._log.info("stopping at once" if self._forced else "stopping", signal=name)
            self._exit_code = 0 if self._exit_code is None else self._exit_code
        self._reap()

    def _reap(self) -> None:
        now = time.monotonic()
        agent = [] if self._agent.kept.process is None else [self._agent.kept.process]
        for process in reap([*agent, *self._envoy.running]):
            if process is self._agent.kept.process:
                self._agent.drop_link()
                self._envoy.forget_request()
                if process.returncode in FINAL_EXIT_CODES:
                    self._agent.kept.forget()
                    self._exit_code = process.returncode if self._exit_code is None else self._exit_code
                self._agent.kept.ended(now)
            else:
                self._envoy.ended(process, now)

    # The end.

    def _stop(self) -> None:
        self._notifier.stopping()
        self._agent.kept.forget()
        self._envoy.kept.forget()
        self._give_notice()
        self._drain()
        self._agent.kept.end(time.monotonic(), self._patience.agent_stop)
        self._wait_until(lambda: self._agent.kept.process is None, self._patience.agent_stop)
        self._envoy.end(time.monotonic())
        self._wait_until(lambda: not any(self._envoy.running), self._patience.envoy_stop)

    def _give_notice(self) -> None:
        """Readiness goes first; everything is served as before until balancers have had time to see it."""
        deadline = time.monotonic() + self._patience.notice
        self._agent.tell(draining_event())
        while self._envoy.kept.process is not None and not self._forced and time.monotonic() < deadline:
            self._turn(until=deadline)

    def _drain(self) -> None:
        """Let Envoy finish what is in flight, as far as patience goes."""
        deadline = time.monotonic() + self._patience.drain
        admin = self._runtime_dir / ENVOY_ADMIN
        if self._envoy.kept.process is None or self._forced or not drain_listeners(admin):
            return
        while self._envoy.kept.process is not None and not self._forced and time.monotonic() < deadline:
            if not requests_in_flight(admin):
                return
            self._turn(until=min(deadline, time.monotonic() + LOOK_AGAIN))

    def _wait_until(self, stopped: Callable[[], bool], within: float) -> None:
        deadline = time.monotonic() + within + AFTER_KILL
        while not stopped() and time.monotonic() < deadline:
            if self._forced:
                self._agent.kept.kill()
                self._envoy.kill()
            self._turn(until=deadline)
