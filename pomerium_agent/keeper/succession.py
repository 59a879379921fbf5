"""One Envoy takes over from another: checked first, fed by the agent beside the old one, then the old one leaves.

Whatever goes wrong before the successor serves leaves the old one serving (envoy.md 5, routes.md 12.2).
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from pomerium_agent.keeper.admin import serves
from pomerium_agent.keeper.children import Adopted, Kept, Patience, Process
from pomerium_agent.keeper.hot import Generation
from pomerium_agent.keeper.log import Log
from pomerium_agent.keeper.sockets import ENVOY_ADMIN

LOOK_AGAIN = 0.1  # seconds between two looks at whether the successor serves
LEAVING_GRACE = 10.0  # seconds beyond its time, after which an Envoy that should have left is killed
CHECK_SECONDS = 30.0  # that the check of a successor may take


class Spawn(Protocol):
    """How an Envoy of some generation is started; None: apart from any line."""

    def __call__(self, generation: Generation | None, *more: str) -> Process: ...


class Succession:
    """At most one successor at a time. The loop calls `turn` when `next_at` has come, and `ended` after reaping."""

    def __init__(self, kept: Kept, spawn: Spawn, runtime_dir: Path, patience: Patience, log: Log) -> None:
        self._kept = kept
        self._spawn = spawn
        self._admin = runtime_dir / ENVOY_ADMIN
        self._leave_within = patience.envoy_leave + LEAVING_GRACE
        self._log = log
        self._asked: Generation | None = None  # whose successor is wanted, when there is room for it
        self._check: Process | None = None
        self._successor: Process | None = None
        self._generation: Generation | None = None  # of the check or the successor
        self._leaving: list[Process] = []
        self._kill_at: float | None = None  # for the check, or for who leaves
        self._look_at: float | None = None
        self._jammed: int | None = None  # a line that lost a successor, and so takes no other one
        self.failed: str | None = None  # why the newest attempt came to nothing

    @property
    def running(self) -> Iterator[Process]:
        """The check, the successor, and who leaves."""
        yield from (process for process in (self._check, self._successor) if process is not None)
        yield from self._leaving

    @property
    def under_way(self) -> bool:
        """Somebody is to take over, or is being checked for it."""
        return self._asked is not None or self._check is not None or self._successor is not None

    def leave(self) -> dict[str, Any]:
        """What the next keeper must know of those that leave; nothing is under way."""
        return {"leaving": [process.pid for process in self._leaving], "kill_at": self._kill_at, "jammed": self._jammed}

    def inherit(self, left: Mapping[str, Any]) -> None:
        """Go on where a keeper before us was."""
        self._leaving = [Adopted(pid) for pid in left["leaving"]]
        self._kill_at, self._jammed = left["kill_at"], left["jammed"]

    @property
    def next_at(self) -> float | None:
        """When `turn` has something to do."""
        return min((at for at in (self._kill_at, self._look_at) if at is not None), default=None)

    def begin(self, running: Generation) -> None:
        """Find a successor for what runs, as it is wanted now. One after the other: the third in a line would be
        told to end at once, with all that it still had to finish.
        """
        self._asked = running
        self.failed = None
        self._check_when_free()

    def turn(self, now: float) -> Generation | None:
        """Do what is due; returns the generation that took over in this moment, whose process is now the kept one."""
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = None
            for process in (*self._leaving, *([self._check] if self._check else [])):
                self._log.warning("did not stop in time", child="envoy", pid=process.pid)
                _signal(process, signal.SIGKILL)
        if self._look_at is None or now < self._look_at:
            return None
        self._look_at = now + LOOK_AGAIN
        if self._successor is None or self._generation is None or not serves(self._admin, self._generation.epoch):
            return None
        old, new, generation = self._kept.process, self._successor, self._generation
        self._successor = self._look_at = None
        if old is not None:
            self._leaving.append(old)
            self._kill_at = now + self._leave_within
        self._kept.adopt(new, now)
        self._log.info("envoy has taken over", pid=new.pid, of=None if old is None else old.pid)
        return generation

    def ended(self, process: Process, now: float) -> None:
        """The check, the successor or one that was leaving has ended."""
        if process is self._check:
            self._check = self._kill_at = None
            self._checked(process.returncode, now)
        elif process is self._successor:
            self._successor = self._look_at = None
            if self._generation is not None:
                self._jammed = self._generation.base_id
                self._fail(f"the new Envoy ended before it served, with code {process.returncode}")
        else:
            self._leaving.remove(process)
            self._log.info("envoy has left", pid=process.pid, code=process.returncode)
            if not self._leaving:
                self._kill_at = None
        self._check_when_free()

    def abandon(self) -> None:
        """Who was to be succeeded is gone; whoever comes now comes afresh."""
        self._asked = self._jammed = self._generation = None
        if self._check is not None:
            _signal(self._check, signal.SIGKILL)
        if self._successor is not None:
            _signal(self._successor, signal.SIGKILL)

    def end(self) -> None:
        """Stop what is beside the kept one."""
        self._asked = self._generation = None
        for process in self.running:
            _signal(process, signal.SIGTERM)

    def kill(self) -> None:
        """Stop it now."""
        self._asked = self._generation = None
        for process in self.running:
            _signal(process, signal.SIGKILL)

    def _check_when_free(self) -> None:
        if self._asked is None or any(self.running):
            return
        asked, self._asked = self._asked, None
        if self._jammed == asked.base_id:
            self._fail("the last one failed half-way, after which Envoy takes no other successor; restart the service")
            return
        self._generation = asked.successor
        try:
            # Apart, since one that fails on the way in leaves the one that runs unable to hand over to another.
            self._check = self._spawn(None, "--mode", "validate")
        except (OSError, subprocess.SubprocessError) as error:
            self._fail(f"the new Envoy cannot be started: {error}")
        else:
            self._kill_at = time.monotonic() + CHECK_SECONDS

    def _checked(self, code: int | None, now: float) -> None:
        if self._generation is None or self._kept.process is None:  # abandoned
            return
        if code != 0:
            self._fail(f"the new Envoy does not take its bootstrap: its check ended with code {code}")
            return
        try:
            self._successor = self._spawn(self._generation)
        except (OSError, subprocess.SubprocessError) as error:
            self._fail(f"the new Envoy cannot be started: {error}")
            return
        self._look_at = now + LOOK_AGAIN
        self._log.info("envoy is to take over", pid=self._successor.pid, of=self._kept.process.pid)

    def _fail(self, reason: str) -> None:
        self.failed = reason
        self._log.error("envoy is not replaced; the one before serves on", reason=reason)


def _signal(process: Process, number: signal.Signals) -> None:
    """Not with Popen's own methods, as in `Kept.signal`; and not when it was reaped in this very turn."""
    if process.returncode is None:
        os.kill(process.pid, number)
