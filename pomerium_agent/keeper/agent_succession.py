"""One agent taking another's place on the kept sockets; whatever goes wrong, one of the two serves.

    preparing ──prepared──► holding ──held──► entering ──serving──► leaving ──► done
        │                      │                  │
        └──────────────────────┴──────────────────┴──► given up: the one before goes on

Nothing here waits: the loop tells what was heard, who ended, and when the time is over.
"""

from enum import StrEnum

from pomerium_agent.keeper.agent_side import AgentSide
from pomerium_agent.keeper.children import Patience
from pomerium_agent.keeper.log import Log
from pomerium_agent.keeper.wire import Held, Left, Message, Prepared, Serving, charge_event, event


class Stage(StrEnum):
    PREPARING = "the new agent gets ready beside the one that serves"
    HOLDING = "the new agent is ready; the one that serves finishes what it writes"
    ENTERING = "the new agent takes over the records and opens its doors"
    LEAVING = "the new agent serves; the one before finishes what is in flight"
    DONE = "the new agent serves alone"
    GIVEN_UP = "the agent that was there goes on serving"


class AgentSuccession:
    """The keeper's part in it. `in_charge` is the agent that counts; `trouble` says why the new one does not."""

    def __init__(self, old: AgentSide, new: AgentSide, patience: Patience, log: Log) -> None:
        self.old = old
        self.new = new
        self.in_charge = old
        self.stage = Stage.PREPARING
        self.trouble = ""
        self.deadline: float | None = None
        self._patience = patience
        self._log = log

    @property
    def over(self) -> bool:
        return self.stage in (Stage.DONE, Stage.GIVEN_UP)

    def begin(self, now: float) -> None:
        """Start the new one."""
        self._enter(Stage.PREPARING, now + self._patience.prepare)
        if not self.new.kept.begin_once(now):
            self._give_up("it could not be started; the log says why", now)

    def heard(self, side: AgentSide, message: Message, now: float) -> None:
        """One of the two said something about it."""
        match self.stage, message:
            case Stage.PREPARING, Prepared() if side is self.new:
                self._enter(Stage.HOLDING, now + self._patience.enter)
                self.old.tell(event("hold"))
            case Stage.HOLDING, Held() if side is self.old:
                self._enter(Stage.ENTERING, now + self._patience.enter)
                self.new.tell(charge_event(ready=self.old.ready, alone=False))
            case Stage.ENTERING, Serving() if side is self.new:
                self._take(now)
            case Stage.LEAVING, Left() if side is self.old:
                self._see_off(now)

    def ended(self, side: AgentSide, code: int, now: float) -> None:
        """One of the two has come to its end, and was reaped."""
        if self.over:
            return
        if side is self.old:
            if self.stage is Stage.LEAVING:
                self._enter(Stage.DONE, None)
            else:
                self._leave_alone(now)
        elif side is self.in_charge:  # it has taken over, and will be started again as any agent is
            if self.old.kept.process is None:
                self._enter(Stage.DONE, None)
            else:
                self._see_off(now)
        else:
            how = f"by {-code}" if code < 0 else f"with code {code}"
            self._give_up(f"it ended {how} before it served; the log says why", now)

    def turn(self, now: float) -> None:
        """Do what is due."""
        if self.deadline is None or now < self.deadline:
            return
        match self.stage:
            case Stage.PREPARING:
                self._give_up(f"it was not ready within {self._patience.prepare:g} s", now)
            case Stage.HOLDING:
                self._give_up("the agent that serves did not come to the end of what it writes", now)
            case Stage.ENTERING if self.in_charge is self.new:  # alone
                self._enter(Stage.DONE, None)
            case Stage.ENTERING:
                self._give_up(f"it was ready, but did not take over within {self._patience.enter:g} s", now)
            case _:
                self._see_off(now)

    def call_off(self, reason: str, now: float) -> None:
        """The replica is about to stop."""
        if not self.over and self.in_charge is self.old:
            self._give_up(reason, now)

    def _take(self, now: float) -> None:
        """From here on there is no way back, and no need for one."""
        self.in_charge = self.new
        self.new.kept.keep()
        self.new.ready = self.old.ready
        self.old.kept.forget()
        if self.old.kept.process is None:
            self._enter(Stage.DONE, None)
            return
        self._enter(Stage.LEAVING, now + self._patience.leave)
        self.old.tell(event("succeeded"))

    def _leave_alone(self, now: float) -> None:
        """The old one died in the middle: the new one, ready or not, is what there is."""
        self._log.warning("the agent that served has ended, so the new one takes its place at once")
        self.old.kept.forget()
        self.in_charge = self.new
        self.new.kept.keep()
        self._enter(Stage.ENTERING, now + self._patience.prepare)
        self.new.tell(charge_event(ready=self.old.ready, alone=True))

    def _see_off(self, now: float) -> None:
        self.deadline = None
        self.old.kept.end(now, self._patience.agent_stop)

    def _give_up(self, trouble: str, now: float) -> None:
        self.trouble = trouble
        if self.stage is Stage.ENTERING:
            self.new.kept.kill()  # its doors may be open
        self._enter(Stage.GIVEN_UP, None)
        self.new.kept.end(now, self._patience.agent_stop)
        self.old.tell(event("resume"))
        self._log.error("the agent was not replaced, the one that was there goes on", reason=trouble)

    def _enter(self, stage: Stage, deadline: float | None) -> None:
        self.stage, self.deadline = stage, deadline
        self._log.info("replacing the agent", stage=stage.name.lower())
