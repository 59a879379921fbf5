"""The keeper's own replacement: the new one is tried out as a child, and then takes over the process by exec."""

import os
import signal
from collections.abc import Callable, Mapping, Sequence

from pomerium_agent.keeper.children import Argv, Kept, Patience, Process, spawn
from pomerium_agent.keeper.estate import ADOPT, Estate, read_estate
from pomerium_agent.keeper.log import Log
from pomerium_agent.keeper.signals import WATCHED

REHEARSE_SECONDS = 30.0
PASSED, SAME = 0, 10  # exit codes of a rehearsal: it can take over; it can, and is what runs already


class Renewal:
    """Owned by the keeper while it is under way."""

    def __init__(self, argv: Argv, estate: Estate, *, forced: bool, patience: Patience, log: Log) -> None:
        self.rehearsal = Kept("new keeper", self._start, patience, log)
        self.forced = forced
        self.caller = estate.caller
        self.then_agent = estate.then_agent
        self._argv = argv
        self._estate = estate
        self._log = log

    def begin(self, now: float) -> bool:
        """Try out the new keeper; False when that cannot even be started."""
        started = self.rehearsal.begin_once(now)
        self.rehearsal.end_at(now + REHEARSE_SECONDS)
        return started

    def trouble(self, code: int) -> str:
        """What the rehearsal's end means for us; empty when the new keeper may take over."""
        if code in (PASSED, SAME):
            return ""
        how = f"ended by {-code}" if code < 0 else f"ended with code {code}"
        return f"the new keeper, tried out beside this one, {how}; the log says why"

    def _start(self) -> Process:
        number = self._estate.write()
        try:
            return spawn(
                (*self._argv(), "--rehearse"), {**os.environ, ADOPT: str(number)}, pass_fds=(number,), dies_with_us=True
            )
        finally:
            os.close(number)


def take_process_over(argv: Sequence[str], estate: Estate, last: Callable[[], bool], log: Log) -> str:
    """Become the new keeper; returns only when that was not possible, with the reason.

    Signals are held back across the exec, and wait for the new keeper. `last` is asked once they are: whether nothing
    has happened that we must see to ourselves.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    number = estate.write()
    descriptors = [*estate.descriptors, number]
    try:
        if not last():
            return "something happened just then; try again"
        log.info("keeper replaced by exec", argv=list(argv))
        for each in descriptors:
            os.set_inheritable(each, True)
        os.execve(argv[0], list(argv), {**os.environ, ADOPT: str(number)})  # noqa: S606  # what we were started with
    except OSError as error:
        return f"the new keeper cannot be started: {error.strerror}"
    finally:
        for each in descriptors:
            os.set_inheritable(each, False)
        os.close(number)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def adopted_estate(environ: Mapping[str, str]) -> Estate | None:
    """What the keeper before us in this process left to us; None when there was none. Raises ValueError."""
    text = environ.get(ADOPT, "")
    if not text:
        return None
    if not text.isdigit():
        raise ValueError(f"{ADOPT} is not for people")
    return read_estate(int(text))


def close_estate(environ: Mapping[str, str], estate: Estate) -> None:
    """Have no child inherit what was left to us by accident."""
    os.close(int(environ[ADOPT]))
    for number in estate.descriptors:
        os.set_inheritable(number, False)
