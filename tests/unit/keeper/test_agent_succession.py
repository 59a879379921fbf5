"""One agent takes another's place, and either of them may die in the middle (architecture 7)."""

import selectors
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from pomerium_agent.keeper.agent_side import AgentSide
from pomerium_agent.keeper.agent_succession import AgentSuccession, Stage
from pomerium_agent.keeper.children import Patience
from pomerium_agent.keeper.log import Log
from pomerium_agent.keeper.wire import Held, Prepared, Serving

SILENT = Log("disabled")


class Replica:
    """Two processes that say nothing, as the keeper has them; what they say is said for them."""

    def __init__(self, directory: Path) -> None:
        self.selector = selectors.DefaultSelector()
        self.old, self.new = (
            AgentSide(lambda: ["sleep", "60"], {}, directory, "i", self.selector, Patience(), SILENT, comes=comes)
            for comes in (False, True)
        )
        self.old.kept.begin(0.0, 1.0)
        self.old.kept.turn(0.0)
        self.old.ready = True
        self.succession = AgentSuccession(self.old, self.new, Patience(), SILENT)
        self.succession.begin(0.0)

    def dies(self, side: AgentSide) -> None:
        side.kept.kill()
        assert side.kept.process is not None
        end = time.monotonic() + 10
        while side.kept.process.returncode is None and time.monotonic() < end:
            side.kept.process.poll()  # type: ignore[attr-defined]  # as the keeper's `reap` does for all at once
        side.drop_link()
        self.succession.ended(side, side.kept.ended(1.0), 1.0)

    def close(self) -> None:
        for side in (self.old, self.new):
            side.drop_link()
            side.kept.forget()
            process = side.kept.process
            if process is not None:
                with suppress(ProcessLookupError):
                    side.kept.signal(signal.SIGKILL)
                process.wait()
        self.selector.close()


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    replica = Replica(tmp_path)
    try:
        yield replica
    finally:
        replica.close()


def test_one_after_the_other_and_then_it_is_over(replica: Replica) -> None:
    succession = replica.succession
    succession.heard(replica.new, Prepared(), 0.1)
    succession.heard(replica.old, Held(), 0.2)
    succession.heard(replica.new, Serving(), 0.3)

    assert succession.in_charge is replica.new
    replica.dies(replica.old)
    assert succession.stage is Stage.DONE


def test_what_dies_before_it_serves_changes_nothing(replica: Replica) -> None:
    replica.dies(replica.new)

    assert replica.succession.stage is Stage.GIVEN_UP
    assert replica.succession.in_charge is replica.old


def test_when_both_die_in_the_middle_it_is_over_and_the_next_upgrade_may_begin(replica: Replica) -> None:
    """The new one is all there is then, and is started again as any agent is."""
    succession = replica.succession
    succession.heard(replica.new, Prepared(), 0.1)
    replica.dies(replica.old)
    assert (succession.in_charge, str(succession.stage)) == (replica.new, str(Stage.ENTERING))

    replica.dies(replica.new)

    assert succession.over
    assert replica.new.kept.next_at is not None
