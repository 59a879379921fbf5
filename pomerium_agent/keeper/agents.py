"""The agents below the keeper: the one in charge, the one that comes to take its place, those that go."""

import time
from collections.abc import Callable

from pomerium_agent.keeper.agent_side import AgentSide
from pomerium_agent.keeper.agent_succession import AgentSuccession
from pomerium_agent.keeper.children import Kept, Patience
from pomerium_agent.keeper.envoy_side import EnvoySide
from pomerium_agent.keeper.log import Log
from pomerium_agent.keeper.wire import Garbage, Ready, StartEnvoy

Make = Callable[[bool], AgentSide]


class Agents:
    """`make` makes the keeper's side of one more agent, which comes to replace another or not."""

    def __init__(self, make: Make, envoy: EnvoySide, patience: Patience, log: Log) -> None:
        self.charged = make(False)  # the one in charge
        self.succession: AgentSuccession | None = None
        self._make = make
        self._others: list[AgentSide] = []  # that come, go, or came to nothing
        self._envoy = envoy
        self._patience = patience
        self._log = log
        self._wanted_next: StartEnvoy | None = None  # by the agent that comes

    @property
    def all(self) -> list[AgentSide]:
        return [self.charged, *self._others]

    @property
    def kept(self) -> list[Kept]:
        return [agent.kept for agent in self.all]

    @property
    def next_at(self) -> float | None:
        """When `step` has something to do."""
        return self.succession.deadline if self.succession is not None else None

    def replace(self) -> None:
        """Begin to replace the agent in charge by another one."""
        new = self._make(True)
        self._others.append(new)
        self._wanted_next = None
        self.succession = AgentSuccession(self.charged, new, self._patience, self._log)
        self.succession.begin(time.monotonic())

    def step(self, now: float) -> None:
        """Do what is due about the replacement."""
        if self.succession is not None:
            self.succession.turn(now)
            self._follow_charge()

    def hear(self, agent: AgentSide, *, stopping: bool) -> bool:
        """Do what an agent has asked for; returns whether it said that visitors are served."""
        ready = False
        for message in agent.read():
            match message:
                case StartEnvoy() if agent is not self.charged:
                    self._wanted_next = message
                    agent.tell(self._envoy.show(message))
                case StartEnvoy():
                    if not stopping:
                        self._envoy.want(message)
                case Ready():
                    agent.ready = ready = True
                case Garbage(reason):
                    self._log.warning("line from the agent ignored", reason=reason)
                case _ if self.succession is not None:
                    self.succession.heard(agent, message, time.monotonic())
                    self._follow_charge()
        if agent is self.charged and not agent.linked:
            self._envoy.forget_request()
        return ready

    def ended(self, agent: AgentSide, now: float) -> int:
        """The process of this one was reaped; returns its exit code."""
        agent.drop_link()
        if agent is self.charged:
            self._envoy.forget_request()
        else:
            self._others.remove(agent)
        code = agent.kept.ended(now)
        if self.succession is not None:
            self.succession.ended(agent, code, now)
            self._follow_charge()
        return code

    def call_off(self, reason: str) -> None:
        """Nothing is replaced any more."""
        if self.succession is not None:
            self.succession.call_off(reason, time.monotonic())

    def _follow_charge(self) -> None:
        """Have the agent count that has taken over; what it wanted of Envoy is done now."""
        if self.succession is None or self.succession.in_charge is self.charged:
            return
        self._others.remove(self.succession.in_charge)
        if self.charged.kept.process is not None:
            self._others.append(self.charged)
        self.charged = self.succession.in_charge
        if self._wanted_next is not None:
            self._envoy.want(self._wanted_next)
            self._wanted_next = None
