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
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pomerium_agent.keeper.admin import drain_listeners, requests_in_flight
from pomerium_agent.keeper.agent_side import AgentSide
from pomerium_agent.keeper.children import Kept, Patience, adopt_orphans, reap
from pomerium_agent.keeper.desk import Desk
from pomerium_agent.keeper.envoy_side import EnvoySide
from pomerium_agent.keeper.log import Log
from pomerium_agent.keeper.notify import Notifier
from pomerium_agent.keeper.signals import read_signals, signal_pipe
from pomerium_agent.keeper.sockets import ENVOY_ADMIN, KEEPER, open_runtime_dir, sweep_agent
from pomerium_agent.keeper.succession import Stage, Succession
from pomerium_agent.keeper.wire import Garbage, Ready, Serving, StartEnvoy, draining_event
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
        listening = stack.enter_context(open_runtime_dir(settings.runtime_dir, settings.local.health_check_addr))
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
        self._agent_argv = agent_argv
        self._for_agents = {name: sock for name, sock in listening.items() if name != KEEPER}
        self._instance = str(uuid.uuid4())
        self._desk = Desk(listening[KEEPER], selector)
        self._agent = self._new_agent()  # in charge
        self._others: list[AgentSide] = []  # that come, go, or came to nothing
        self._succession: Succession | None = None
        self._told: Stage | None = None
        self._caller = 0  # who wants to know how it goes
        self._wanted_next: StartEnvoy | None = None  # by the agent that comes
        self._envoy = EnvoySide(patience, log)
        self._exit_code: int | None = None  # set: we are stopping
        self._stop_signals = 0

    def _new_agent(self, *, comes: bool = False) -> AgentSide:
        return AgentSide(
            self._agent_argv,
            self._for_agents,
            self._runtime_dir,
            self._instance,
            self._selector,
            self._patience,
            self._log,
            comes=comes,
        )

    @property
    def _agents(self) -> list[AgentSide]:
        return [self._agent, *self._others]

    @property
    def _all_kept(self) -> list[Kept]:
        return [self._envoy.kept, *(agent.kept for agent in self._agents)]

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
        for kept in self._all_kept:
            if kept.process is not None:
                kept.process.kill()
                kept.process.wait()
        for agent in self._agents:
            agent.drop_link()
        self._desk.close()

    # The loop.

    def _turn(self, until: float | None = None) -> None:
        """Do what is due, then wait for something to happen, at most until `until`."""
        now = time.monotonic()
        if self._sign_of_life_at is not None and now >= self._sign_of_life_at:
            self._notifier.alive()
            self._sign_of_life_at = now + (self._notifier.watchdog_seconds or 0.0)
        for kept in self._all_kept:
            kept.turn(now)
        self._step_succession(now)
        self._pass_on_news()
        times = [until, self._sign_of_life_at, *(kept.next_at for kept in self._all_kept)]
        if self._succession is not None:
            times.append(self._succession.deadline)
        first = min((at for at in times if at is not None), default=None)
        for key, _ in self._selector.select(None if first is None else max(0.0, first - time.monotonic())):
            match key.data:
                case AgentSide() as agent:
                    self._on_agent(agent)
                case Desk() as desk:
                    self._on_desk(desk)
                case _:
                    self._on_signals()
        self._step_succession(time.monotonic())
        self._pass_on_news()

    def _pass_on_news(self) -> None:
        for line in self._envoy.take_news():
            for agent in self._agents:
                agent.tell(line)

    def _on_agent(self, agent: AgentSide) -> None:
        for message in agent.read():
            match message:
                case StartEnvoy() if agent is not self._agent:
                    self._wanted_next = message
                    agent.tell(self._envoy.show(message))
                case StartEnvoy() if self._exit_code is None:
                    self._envoy.want(message)
                case Ready():
                    agent.ready = True
                    self._log.info("ready")
                    self._notifier.ready()
                case Garbage(reason):
                    self._log.warning("line from the agent ignored", reason=reason)
                case _ if self._succession is not None:
                    self._succession.heard(agent, message, time.monotonic())
                    if message == Serving():
                        self._follow_charge()
        if agent is self._agent and not agent.linked:
            self._envoy.forget_request()

    # Replacing the agent.

    def _on_desk(self, desk: Desk) -> None:
        for caller, question in desk.read():
            if question.get("op") != "upgrade":
                trouble = "the keeper does not know what that is"
            elif self._succession is not None:
                trouble = "the agent is being replaced already"
            elif self._exit_code is not None:
                trouble = "the replica is stopping"
            else:
                self._caller = caller
                self._replace_agent()
                continue
            desk.tell(caller, done=True, trouble=trouble)
            desk.dismiss(caller)

    def _replace_agent(self) -> None:
        new = self._new_agent(comes=True)
        self._others.append(new)
        self._wanted_next, self._told = None, None
        self._succession = Succession(self._agent, new, self._patience, self._log)
        self._succession.begin(time.monotonic())

    def _step_succession(self, now: float) -> None:
        succession = self._succession
        if succession is None:
            return
        succession.turn(now)
        self._follow_charge()
        if succession.stage is not self._told:
            self._told = succession.stage
            self._desk.tell(self._caller, step=succession.stage.value)
        if succession.over:
            self._desk.tell(self._caller, done=True, trouble=succession.trouble)
            self._desk.dismiss(self._caller)
            self._succession = None

    def _follow_charge(self) -> None:
        """Have the agent count that has taken over; what it wanted of Envoy is done now."""
        if self._succession is None or self._succession.in_charge is self._agent:
            return
        self._others.remove(self._succession.in_charge)
        if self._agent.kept.process is not None:
            self._others.append(self._agent)
        self._agent = self._succession.in_charge
        if self._wanted_next is not None:
            self._envoy.want(self._wanted_next)
            self._wanted_next = None

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
        for process in reap([kept.process for kept in self._all_kept if kept.process is not None]):
            if process is self._envoy.kept.process:
                self._envoy.ended(now)
                continue
            for agent in self._agents:
                if process is agent.kept.process:
                    self._agent_ended(agent, now)

    def _agent_ended(self, agent: AgentSide, now: float) -> None:
        assert agent.kept.process is not None  # noqa: S101
        pid, code = agent.kept.process.pid, agent.kept.process.returncode
        agent.drop_link()
        sweep_agent(self._runtime_dir, pid)
        if agent is self._agent:
            self._envoy.forget_request()
            if code in FINAL_EXIT_CODES:
                agent.kept.forget()
                self._exit_code = code if self._exit_code is None else self._exit_code
        else:
            self._others.remove(agent)
        agent.kept.ended(now)
        if self._succession is not None and self._exit_code is None:
            self._succession.ended(agent, code or 0, now)
            self._step_succession(now)

    # The end.

    def _stop(self) -> None:
        self._notifier.stopping()
        if self._succession is not None:
            self._succession.call_off("the replica is stopping", time.monotonic())
        self._agent.kept.forget()
        self._envoy.kept.forget()
        self._give_notice()
        self._drain()
        agents = [(agent.kept, self._patience.agent_stop) for agent in self._agents]
        for kept, stop_within in (*agents, (self._envoy.kept, self._patience.envoy_stop)):
            kept.end(time.monotonic(), stop_within)
            self._wait_for(kept, time.monotonic() + stop_within + AFTER_KILL)

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

    def _wait_for(self, kept: Kept, deadline: float) -> None:
        while kept.process is not None and time.monotonic() < deadline:
            if self._forced:
                for each in self._all_kept:
                    each.kill()
            self._turn(until=deadline)
