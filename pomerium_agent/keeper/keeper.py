"""The parent of agent and Envoy: holds the sockets between them, starts both, restarts either, stops both in order.

One loop, no threads, nothing that can hang for long. It wakes for a signal, a line from the agent, or a time that
has come; everything else is in the state of two `Kept` children (architecture.md 1, routes.md 12.2).

The stop, in order: Envoy takes leave of its clients and finishes what is in flight, the agent stops, Envoy stops.
"""

import os
import selectors
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

from pomerium_agent.errors import SettingsError
from pomerium_agent.keeper.admin import drain_listeners, requests_in_flight
from pomerium_agent.keeper.agent_side import AgentSide
from pomerium_agent.keeper.agents import Agents
from pomerium_agent.keeper.children import Argv, Kept, Patience, Process, adopt_orphans, reap
from pomerium_agent.keeper.desk import Desk
from pomerium_agent.keeper.envoy_side import EnvoySide
from pomerium_agent.keeper.estate import ADOPT, Estate, code_digest
from pomerium_agent.keeper.log import Log
from pomerium_agent.keeper.notify import Notifier
from pomerium_agent.keeper.renewal import PASSED, SAME, adopted_estate, close_estate
from pomerium_agent.keeper.signals import read_signals, signal_pipe
from pomerium_agent.keeper.sockets import (
    ENVOY_ADMIN,
    KEEPER,
    RuntimeDir,
    adopt_runtime_dir,
    open_runtime_dir,
    sweep_agent,
)
from pomerium_agent.keeper.upgrades import Upgrades
from pomerium_agent.keeper.wire import draining_event
from pomerium_agent.settings import Settings

FINAL_EXIT_CODES = (2, 3)  # settings, refused: another try would end the same way
LOOK_AGAIN = 0.1  # seconds between two looks at the requests in flight while draining
AFTER_KILL = 5.0  # seconds for the kernel to end what was killed


def run_keeper(
    settings: Settings,
    *,
    agent_argv: Argv,
    keeper_argv: Argv,
    patience: Patience | None = None,
    rehearse: bool = False,
) -> int:
    """Keep an agent and an Envoy running until told to stop; return the exit code of the whole.

    0 after SIGTERM or SIGINT; 2 or 3 when the agent ended with that code. Blocks; call it from the main thread.
    `keeper_argv` is how a new keeper takes over this process, which it does as soon as this is called there; with
    `rehearse` it only says, by an exit code, whether it could. Raises SettingsError when the runtime directory cannot
    be used.
    """
    log = Log(settings.log_level)
    try:
        estate = adopted_estate(os.environ)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    if rehearse:
        return SAME if estate is not None and estate.code == code_digest() else PASSED
    if estate is not None:
        close_estate(os.environ, estate)
        del os.environ[ADOPT]
    with ExitStack() as stack:
        pipe = stack.enter_context(signal_pipe())
        runtime = stack.enter_context(_runtime_dir(settings, estate))
        selector = stack.enter_context(selectors.DefaultSelector())
        argv = (agent_argv, keeper_argv)
        keeper = Keeper(runtime, argv, pipe, selector, patience or Patience(), log, estate)
        stack.callback(keeper.close)
        adopt_orphans()
        return keeper.run()


def _runtime_dir(settings: Settings, estate: Estate | None) -> AbstractContextManager[RuntimeDir]:
    if estate is None:
        return open_runtime_dir(settings.runtime_dir, settings.local.health_check_addr)
    return adopt_runtime_dir(Path(estate.runtime_dir), estate.lock, estate.listening, created=estate.created)


class Keeper:
    """The loop and what it holds."""

    def __init__(
        self,
        runtime: RuntimeDir,
        argv: tuple[Argv, Argv],  # of agents, and of keepers
        pipe: int,
        selector: selectors.BaseSelector,
        patience: Patience,
        log: Log,
        estate: Estate | None = None,
    ) -> None:
        self._runtime_dir = runtime.path
        self._pipe = pipe
        self._selector = selector
        self._patience = patience
        self._log = log
        self._estate = estate
        self._notifier = Notifier(os.environ)
        self._sign_of_life_at = None if self._notifier.watchdog_seconds is None else 0.0
        instance = estate.instance if estate is not None else str(uuid.uuid4())
        for_agents = {name: sock for name, sock in runtime.listening.items() if name != KEEPER}

        def new_agent(comes: bool) -> AgentSide:
            return AgentSide(argv[0], for_agents, runtime.path, instance, selector, patience, log, comes=comes)

        self._envoy = EnvoySide(runtime.path, patience, log)
        self._agents = Agents(new_agent, self._envoy, patience, log)
        desk = Desk(runtime.listening[KEEPER], selector)
        self._upgrades = Upgrades(desk, self._agents, self._envoy, runtime, instance, argv[1], patience, log)
        self._exit_code: int | None = None  # set: we are stopping
        self._stop_signals = 0

    @property
    def _kept(self) -> list[Kept]:
        """All but Envoy, of which there may be several."""
        return [*self._agents.kept, *self._upgrades.kept]

    @property
    def _running(self) -> list[Process]:
        return [*self._envoy.running, *(kept.process for kept in self._kept if kept.process is not None)]

    @property
    def _forced(self) -> bool:
        return self._stop_signals > 1

    def run(self) -> int:
        """Until told to stop, then in order."""
        self._selector.register(self._pipe, selectors.EVENT_READ)
        if self._estate is None:
            self._log.info("keeper started", pid=os.getpid(), runtime_dir=self._runtime_dir)
            self._agents.charged.kept.begin(time.monotonic(), self._patience.agent_stop)
        else:
            self._log.info("keeper took over", pid=os.getpid(), runtime_dir=self._runtime_dir)
            self._inherit(self._estate)
        while self._exit_code is None:
            self._turn()
            self._upgrades.renew_if_due(self._nothing_happened)
        self._stop()
        self._log.info("keeper stopped", code=self._exit_code)
        return self._exit_code

    def _inherit(self, estate: Estate) -> None:
        self._agents.charged.inherit(estate.agent)
        self._envoy.inherit(estate.envoy)
        self._reap()  # who ended meanwhile
        self._upgrades.inherit(estate)

    def _nothing_happened(self) -> bool:
        self._on_signals()
        return self._exit_code is None

    def close(self) -> None:
        """Leave nothing behind, also after a bug: what still runs is killed."""
        for process in self._running:
            process.kill()
            process.wait()
        self._envoy.sweep()
        for agent in self._agents.all:
            agent.drop_link()
        self._upgrades.desk.close()

    # The loop.

    def _turn(self, until: float | None = None) -> None:
        """Do what is due, then wait for something to happen, at most until `until`."""
        now = time.monotonic()
        if self._sign_of_life_at is not None and now >= self._sign_of_life_at:
            self._notifier.alive()
            self._sign_of_life_at = now + (self._notifier.watchdog_seconds or 0.0)
        for kept in self._kept:
            kept.turn(now)
        self._envoy.turn(now)
        self._upgrades.step(now)
        self._pass_on_news()
        times = (
            *(until, self._sign_of_life_at, self._agents.next_at, self._envoy.next_at),
            *(kept.next_at for kept in self._kept),
        )
        first = min((at for at in times if at is not None), default=None)
        for key, _ in self._selector.select(None if first is None else max(0.0, first - time.monotonic())):
            match key.data:
                case AgentSide() as agent:
                    if self._agents.hear(agent, stopping=self._exit_code is not None):
                        self._log.info("ready")
                        self._notifier.ready()
                case Desk():
                    self._upgrades.read(stopping=self._exit_code is not None)
                case _:
                    self._on_signals()
        self._upgrades.step(time.monotonic())
        self._pass_on_news()

    def _pass_on_news(self) -> None:
        for line in self._envoy.take_news():
            for agent in self._agents.all:
                agent.tell(line)

    def _on_signals(self) -> None:
        for number in read_signals(self._pipe):
            if number == signal.SIGCHLD:
                continue
            name = signal.Signals(number).name
            if number == signal.SIGHUP:
                self._log.info("signal passed on", signal=name)
                self._agents.charged.kept.signal(signal.SIGHUP)
                continue
            self._stop_signals += 1
            self._log.info("stopping at once" if self._forced else "stopping", signal=name)
            self._exit_code = 0 if self._exit_code is None else self._exit_code
        self._reap()

    def _reap(self) -> None:
        now = time.monotonic()
        for process in reap(self._running):
            if any(process is each for each in self._envoy.running):
                self._envoy.ended(process, now)
            elif any(process is kept.process for kept in self._upgrades.kept):
                self._upgrades.ended(now)
            else:
                self._agent_ended(next(agent for agent in self._agents.all if agent.kept.process is process), now)

    def _agent_ended(self, agent: AgentSide, now: float) -> None:
        assert agent.kept.process is not None  # noqa: S101
        sweep_agent(self._runtime_dir, agent.kept.process.pid)
        if agent is self._agents.charged and agent.kept.process.returncode in FINAL_EXIT_CODES:
            agent.kept.forget()
            self._exit_code = agent.kept.process.returncode if self._exit_code is None else self._exit_code
            self._agents.call_off("the replica is stopping")
        self._agents.ended(agent, now)

    # The end.

    def _stop(self) -> None:
        self._notifier.stopping(longest_stop(self._patience))
        self._upgrades.call_off()
        self._agents.charged.kept.forget()
        self._envoy.kept.forget()
        self._give_notice()
        self._drain()
        for kept in self._agents.kept:
            kept.end(time.monotonic(), self._patience.agent_stop)
            self._wait_until(partial(_stopped, kept), self._patience.agent_stop)
        self._envoy.end(time.monotonic())
        self._wait_until(lambda: not any(self._envoy.running), self._patience.envoy_stop)

    def _give_notice(self) -> None:
        """Readiness goes first; everything is served as before until balancers have had time to see it."""
        deadline = time.monotonic() + self._patience.notice
        self._agents.charged.tell(draining_event())
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
                self._envoy.kill()
                for kept in self._kept:
                    kept.kill()
            self._turn(until=deadline)


def _stopped(kept: Kept) -> bool:
    return kept.process is None


def longest_stop(patience: Patience) -> float:
    """Seconds from the first signal to the end, when everything has to be killed, and in the middle of an upgrade."""
    agents = 2 * (patience.agent_stop + AFTER_KILL)
    return patience.notice + patience.drain + agents + patience.envoy_stop + AFTER_KILL
