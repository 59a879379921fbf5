"""Child processes: how they are made, kept alive, stopped and reaped."""

import ctypes
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pomerium_agent.keeper.log import Log
from pomerium_agent.keeper.signals import held_back, reset_in_child
from pomerium_agent.runtime.backoff import Backoff

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

Argv = Callable[[], Sequence[str]]  # asked at each start: another release may be installed by then


class Process(Protocol):
    """A child of ours, started by us or by a keeper before us in the same process."""

    @property
    def pid(self) -> int: ...

    @property
    def returncode(self) -> int | None: ...

    def wait(self) -> int:
        """Reap it."""

    def kill(self) -> None:
        """Kill it."""


class Adopted:
    """A child that a keeper before us started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def adopt_orphans() -> None:
    """Have processes whose parents die come to us, as they do to PID 1, so that none is left a zombie."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def spawn(
    argv: Sequence[str],
    environ: Mapping[str, str],
    *,
    pass_fds: Sequence[int] = (),
    dies_with_us: bool = False,
    ignored: Sequence[signal.Signals] = (),
) -> Process:
    """Start a process in its own session, with as many open files as the machine allows.

    With `dies_with_us` the kernel sends it SIGTERM when we end, however we end. (A binary with file capabilities
    would lose that at exec: give the capability to the service instead.) Raises OSError or SubprocessError.
    """
    libc, parent = ctypes.CDLL(None), os.getpid()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    def before_exec() -> None:
        if dies_with_us:
            libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
            if os.getppid() != parent:  # too late to hear of it from the kernel
                os._exit(1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        reset_in_child(*ignored)

    with held_back():
        return subprocess.Popen(  # noqa: S603  # the keeper's work is to start what it was told to
            argv,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            pass_fds=pass_fds,
            start_new_session=True,
            preexec_fn=before_exec,  # safe: the keeper has no threads
        )


def reap(ours: Iterable[Process]) -> list[Process]:
    """Reap every process that has ended; return those of `ours`. The others are orphans that came to us."""
    known = {process.pid: process for process in ours}
    ended: list[Process] = []
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return ended
        if found is None:
            return ended
        process = known.get(found.si_pid)
        if process is None:
            os.waitpid(found.si_pid, 0)
        else:
            process.wait()
            ended.append(process)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long is waited for what, in seconds."""

    notice: float = 0.0  # for balancers to see that we are not ready, before anything is drained
    drain: float = 5.0  # for requests in flight, before anything is stopped
    agent_stop: float = 10.0  # after SIGTERM, before SIGKILL
    envoy_stop: float = 10.0
    envoy_drain: float = 60.0  # in which an Envoy that is succeeded takes leave of its clients (routes.md 12.2)
    envoy_leave: float = 120.0  # after which it ends, with whatever is still open
    prepare: float = 60.0  # for an agent that comes to replace another, before it is given up
    enter: float = 15.0  # for it to take over, which is nothing but a few messages and the last records
    leave: float = 2.0  # for the other one to let go, before it is told to stop
    settled: float = 60.0  # of life, after which the next end counts as a first one
    first_pause: float = 0.5  # between the second end and the third start; the first restart is at once
    longest_pause: float = 30.0


class Kept:
    """A child that is started again whenever it ends: at once the first time, then after growing pauses.

    Nothing here waits. The loop calls `turn` when `next_at` has come, and `ended` when the process was reaped.
    """

    def __init__(self, name: str, start: Callable[[], Process], patience: Patience, log: Log) -> None:
        self.name = name
        self.process: Process | None = None
        self._start = start
        self._settled = patience.settled
        self._longest_pause = patience.longest_pause
        self._pauses = Backoff(first=patience.first_pause, factor=2.0, cap=patience.longest_pause)
        self._log = log
        self._restarts_at_once = True
        self._began = 0.0  # by the monotonic clock, which goes on through an exec
        self._wanted = False
        self._replaced = False  # what runs is being stopped to make room for its successor
        self._start_at: float | None = None
        self._kill_at: float | None = None

    @property
    def next_at(self) -> float | None:
        """When `turn` has something to do."""
        return min((at for at in (self._start_at, self._kill_at) if at is not None), default=None)

    @property
    def began(self) -> float:
        return self._began

    @property
    def coming(self) -> bool:
        """A start is due, or will be when what runs has made room."""
        return self._start_at is not None or self._replaced

    def begin(self, now: float, stop_within: float) -> None:
        """Run it afresh: start it, or stop what runs and start it then. Earlier failures are forgotten."""
        self._wanted, self._restarts_at_once = True, True
        self._pauses.reset()
        if self.process is None:
            self._start_at = now
        else:
            self._replaced = True
            self._terminate(now, stop_within)

    def begin_once(self, now: float) -> bool:
        """Start it, and not again when it ends, until `keep`; says whether it was started."""
        self._run(now)
        self._wanted, self._start_at = False, None
        return self.process is not None

    def adopt(self, process: Process, began: float) -> None:
        """This one runs now, in place of the one that ran, if any, which is somebody else's to reap."""
        self.process, self._began, self._wanted = process, began, True
        self._restarts_at_once = True
        self._pauses.reset()

    def end_at(self, at: float) -> None:
        """Kill it then, if it runs still."""
        self._kill_at = at

    def keep(self) -> None:
        """From now on it is started again when it ends, or, if it has ended already, at the next turn."""
        self._wanted = True
        if self.process is None:
            self._start_at = time.monotonic()

    def end(self, now: float, stop_within: float) -> None:
        """Stop it, and do not start it again."""
        self.forget()
        if self.process is not None:
            self._terminate(now, stop_within)

    def forget(self) -> None:
        """Do not start it again when it ends."""
        self._wanted, self._start_at = False, None

    def kill(self) -> None:
        """Stop it now."""
        self.signal(signal.SIGKILL)
        self._kill_at = None

    def signal(self, number: signal.Signals) -> None:
        """Pass on a signal.

        Not with Popen's own methods: they reap, and then `reap` would never hear of the end. The process id is
        still its own, since only `reap` gives it up.
        """
        if self.process is not None:
            os.kill(self.process.pid, number)

    def turn(self, now: float) -> None:
        """Do what is due."""
        if self._kill_at is not None and now >= self._kill_at:
            self._log.warning("did not stop in time", child=self.name)
            self.kill()
        if self._start_at is not None and now >= self._start_at:
            self._start_at = None
            self._run(now)

    def ended(self, now: float) -> int:
        """The process is gone; plan its successor. Returns its exit code, negative for a signal."""
        assert self.process is not None and self.process.returncode is not None  # noqa: S101, PT018
        code, lived = self.process.returncode, now - self._began
        if self._wanted:
            self._start_at = now if self._replaced else now + self._pause(lived)
        self.process, self._kill_at, self._replaced = None, None, False
        self._log.info(
            "child ended",
            child=self.name,
            **({"signal": _signal_name(-code)} if code < 0 else {"code": code}),
            lived=round(lived, 2),
            **({} if self._start_at is None else {"restart_in": round(self._start_at - now, 2)}),
        )
        return code

    def _run(self, now: float) -> None:
        try:
            self.process = self._start()
        except (OSError, subprocess.SubprocessError) as error:
            self._start_at = now + self._pause(0.0)
            self._log.error("cannot start", child=self.name, reason=str(error), retry_in=round(self._start_at - now, 2))
            return
        self._began = now
        self._log.info("child started", child=self.name, pid=self.process.pid)

    def _pause(self, lived: float) -> float:
        if lived >= self._settled:
            self._restarts_at_once = True
            self._pauses.reset()
        if self._restarts_at_once:
            self._restarts_at_once = False
            return 0.0
        return min(self._pauses.next(), self._longest_pause)

    def _terminate(self, now: float, stop_within: float) -> None:
        if self._kill_at is None:
            self.signal(signal.SIGTERM)
            self._kill_at = now + stop_within


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return str(number)
