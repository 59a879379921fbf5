"""What `pomerium-agent upgrade` asks for: the keeper goes over to what is installed now, and then the agent does.

asked ──► the new keeper is tried out ──► exec ──► (the new keeper) ──► the agent is replaced ──► done
             └── is what runs already ──────────────────────────────────────┘
"""

import socket
import time
from collections.abc import Callable

from pomerium_agent.keeper.agent_succession import Stage
from pomerium_agent.keeper.agents import Agents
from pomerium_agent.keeper.children import Argv, Kept, Patience
from pomerium_agent.keeper.desk import Desk
from pomerium_agent.keeper.envoy_side import EnvoySide
from pomerium_agent.keeper.estate import Estate, code_digest
from pomerium_agent.keeper.log import Log
from pomerium_agent.keeper.renewal import SAME, Renewal, take_process_over
from pomerium_agent.keeper.sockets import RuntimeDir

UNSTEADY = "something below the keeper is not running just now; `pomerium-agent status` says what, try again then"


class Upgrades:
    """One at a time. The loop hands in what callers ask and which children ended, and calls `step`."""

    def __init__(
        self,
        desk: Desk,
        agents: Agents,
        envoy: EnvoySide,
        runtime: RuntimeDir,
        instance: str,
        argv: Argv,
        patience: Patience,
        log: Log,
    ) -> None:
        self.desk = desk
        self._agents = agents
        self._envoy = envoy
        self._runtime = runtime
        self._instance = instance
        self._argv = argv
        self._patience = patience
        self._log = log
        self._code = code_digest()  # of what runs, as long as it is what is on disk
        self._renewal: Renewal | None = None
        self._due = False  # the new keeper has proved that it can take over
        self._caller = 0
        self._told: Stage | None = None

    @property
    def kept(self) -> list[Kept]:
        return [self._renewal.rehearsal] if self._renewal is not None else []

    @property
    def _steady(self) -> bool:
        agent = self._agents.charged
        alone = agent.kept.process is not None and agent.linked and len(self._agents.all) == 1
        return alone and self._envoy.steady

    def read(self, *, stopping: bool) -> None:
        """Hear callers out."""
        for caller, question in self.desk.read():
            if question.get("op") != "upgrade":
                self._refuse(caller, "the keeper does not know what that is")
            elif stopping:
                self._refuse(caller, "the replica is stopping")
            elif self._agents.succession is not None or self._renewal is not None:
                self._refuse(caller, "an upgrade is under way already")
            elif not self._steady:
                self._refuse(caller, UNSTEADY)
            else:
                self._begin(caller, str(question.get("keeper", "")), agent=question.get("agent") is not False)

    def step(self, now: float) -> None:
        """Do what is due, and tell whoever asked how it goes."""
        self._agents.step(now)
        succession = self._agents.succession
        if succession is None:
            return
        if succession.stage is not self._told:
            self._told = succession.stage
            self.desk.tell(self._caller, step=succession.stage.value)
        if succession.over:
            self._agents.succession = None
            self._end(succession.trouble)

    def ended(self, now: float) -> None:
        """The new keeper that was tried out has come to its end."""
        assert self._renewal is not None  # noqa: S101
        renewal = self._renewal
        code = renewal.rehearsal.ended(now)
        trouble = renewal.trouble(code)
        if trouble:
            self._renewal = None
            self._end(trouble)
        elif code == SAME and not renewal.forced:
            self._renewal = None
            self._replace_agent(renewal.then_agent)
        else:
            self._due = True

    def renew_if_due(self, last: Callable[[], bool]) -> None:
        """Become the new keeper if it has been tried out; `last` is asked when nothing can happen any more."""
        if self._renewal is None or not self._due:
            return
        renewal, self._renewal, self._due = self._renewal, None, False
        if self._steady:
            estate = self._estate(then_agent=renewal.then_agent)
            trouble = take_process_over(self._argv(), estate, lambda: last() and self._steady, self._log)
        else:
            trouble = UNSTEADY
        self._log.error("the keeper was not replaced", reason=trouble)
        self._end(trouble)

    def inherit(self, estate: Estate) -> None:
        """Go on with what the keeper before us had begun."""
        self._caller = self.desk.adopt(socket.socket(fileno=estate.caller)) if estate.caller else 0
        self.desk.tell(self._caller, step="the new keeper has taken over")
        self._replace_agent(estate.then_agent)

    def call_off(self) -> None:
        """The replica is about to stop."""
        self._agents.call_off("the replica is stopping")
        self._renewal, self._due = None, False
        self.step(time.monotonic())

    def _begin(self, caller: int, keeper: str, *, agent: bool) -> None:
        self._caller, self._told = caller, None
        if keeper == "no":
            self._replace_agent(agent)
            return
        self.desk.tell(caller, step="the new keeper is tried out beside the one that runs")
        forced = keeper == "yes"
        estate = self._estate(then_agent=agent)
        self._renewal = Renewal(self._argv, estate, forced=forced, patience=self._patience, log=self._log)
        if not self._renewal.begin(time.monotonic()):
            self._renewal = None
            self._end("the new keeper cannot be started; the log says why")

    def _replace_agent(self, wanted: bool) -> None:
        if wanted:
            self._agents.replace()
        else:
            self._end("")

    def _estate(self, *, then_agent: bool) -> Estate:
        return Estate(
            code=self._code,
            runtime_dir=str(self._runtime.path),
            created=self._runtime.created,
            lock=self._runtime.lock,
            listening={name: sock.fileno() for name, sock in self._runtime.listening.items()},
            instance=self._instance,
            agent=self._agents.charged.leave(),
            envoy=self._envoy.leave(),
            caller=self._caller,
            then_agent=then_agent,
        )

    def _end(self, trouble: str) -> None:
        self._refuse(self._caller, trouble)

    def _refuse(self, caller: int, trouble: str) -> None:
        self.desk.tell(caller, done=True, trouble=trouble)
        self.desk.dismiss(caller)
