"""The keeper's side of Envoy: which one is wanted, whether it is the one that runs, and what the agent hears of it."""

import filecmp
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pomerium_agent.keeper.children import Adopted, Kept, Patience, Process, spawn
from pomerium_agent.keeper.hot import Generation, flags, hot_restart_works, new_line, sweep
from pomerium_agent.keeper.log import Log
from pomerium_agent.keeper.succession import Succession
from pomerium_agent.keeper.wire import StartEnvoy, envoy_event, refusal_event

ENVOY_ENVIRONMENT = ("PATH", "TZ", "TMPDIR")
SHA256 = 32  # bytes
NO_HOT_RESTART = "--disable-hot-restart"


class EnvoySide:
    """A kept Envoy. What the agent should hear of it waits in `take_news`, for the loop to pass on.

    An Envoy that is wanted in place of the one that runs takes over from it where the agent allows that (`hot`);
    else the one that runs is stopped first.
    """

    def __init__(self, runtime_dir: Path, patience: Patience, log: Log) -> None:
        self.kept = Kept("envoy", self._start, patience, log)
        self.succession = Succession(self.kept, self._spawn, runtime_dir, patience, log)
        self._runtime_dir = runtime_dir
        self._patience = patience
        self._log = log
        self._wanted: StartEnvoy | None = None
        self._digest = b""
        self._serving: StartEnvoy | None = None  # what runs was started as
        self._generation: Generation | None = None  # None: what runs cannot hand over
        self._lines: list[Generation] = []  # whatever was started; they leave things behind
        self._unanswered: int | None = None  # the request that the next start answers
        self._news: list[bytes] = []

    def want(self, wanted: StartEnvoy) -> None:
        """Adopt the Envoy that runs if it is the one wanted; else have it take over, or start it afresh."""
        try:
            digest = _digest(wanted)
        except OSError as error:
            reason = f"cannot read the bootstrap file {wanted.bootstrap}: {error.strerror}"
            self._log.error("envoy refused", reason=reason)
            self._news.append(refusal_event(reason, wanted.request))
            return
        running = self._wanted
        same = running is not None and (
            (running.argv, self._digest) == (wanted.argv, digest) or self._is_elsewhere(running, wanted, digest)
        )
        self._wanted = wanted
        if self.kept.process is not None and not self.kept.coming:
            if same or self._generation is not None:
                # Also of one that will leave: until then it is the one to feed.
                self._news.append(envoy_event(self.kept.process.pid, wanted.request))
            if same:
                self._digest = digest
                self._log.info("envoy adopted", pid=self.kept.process.pid)
                return
            if self._generation is not None:
                self._digest = digest
                self.succession.begin(self._generation)
                self._hear_of_failure()
                return
        self._unanswered = wanted.request
        if not (same and self.kept.coming):
            self._digest = digest
            self.kept.begin(time.monotonic(), self._patience.envoy_stop)

    def _is_elsewhere(self, running: StartEnvoy, wanted: StartEnvoy, digest: bytes) -> bool:
        """Whether what runs is wanted under another name: a release may bring the same binary in another place."""
        if self.kept.process is None or not self.steady or self._digest[:SHA256] != digest[:SHA256]:
            return False
        return running.argv[1:] == wanted.argv[1:] and _same_file(f"/proc/{self.kept.process.pid}/exe", wanted.argv[0])

    @property
    def running(self) -> Iterator[Process]:
        """All there are: the one that serves, one that will, and those that finish what they had."""
        if self.kept.process is not None:
            yield self.kept.process
        yield from self.succession.running

    @property
    def next_at(self) -> float | None:
        """When `turn` has something to do."""
        return min((at for at in (self.kept.next_at, self.succession.next_at) if at is not None), default=None)

    @property
    def steady(self) -> bool:
        """Nothing comes; one that leaves does not count."""
        return not self.kept.coming and not self.succession.under_way

    def show(self, wanted: StartEnvoy) -> bytes:
        """What an agent that is not in charge hears when it wants one: which Envoy runs, be it that one or not."""
        return envoy_event(self.kept.process.pid if self.kept.process is not None else 0, wanted.request)

    def leave(self) -> dict[str, Any]:
        """What the next keeper needs to go on with it; empty when none runs."""
        if self._wanted is None or self.kept.process is None:
            return {}
        return {
            "pid": self.kept.process.pid,
            "began": self.kept.began,
            "wanted": asdict(self._wanted),
            "digest": self._digest.hex(),
            "serving": None if self._serving is None else asdict(self._serving),
            "lines": [asdict(each) for each in self._lines],
            "generation": None if self._generation is None else asdict(self._generation),
            "succession": self.succession.leave(),
        }

    def inherit(self, left: Mapping[str, Any]) -> None:
        """Go on with the Envoy that a keeper before us had."""
        if not left:
            return
        self._wanted, self._digest = _read_wanted(left["wanted"]), bytes.fromhex(left["digest"])
        self._serving = None if left["serving"] is None else _read_wanted(left["serving"])
        self._lines = [Generation(**each) for each in left["lines"]]
        self._generation = None if left["generation"] is None else Generation(**left["generation"])
        self.kept.adopt(Adopted(left["pid"]), left["began"])
        self.succession.inherit(left["succession"])

    def turn(self, now: float) -> None:
        """Do what is due."""
        self.kept.turn(now)
        if (successor := self.succession.turn(now)) is not None:
            self._generation, self._serving = successor, self._wanted
            assert self.kept.process is not None  # noqa: S101
            self._news.append(envoy_event(self.kept.process.pid, None))

    def ended(self, process: Process, now: float) -> None:
        """One of `running` was reaped."""
        if process is not self.kept.process:
            self.succession.ended(process, now)
            self._hear_of_failure()
            return
        self.succession.abandon()
        self.kept.ended(now)
        self._news.append(envoy_event(0, None))

    def end(self, now: float) -> None:
        """Stop them all, and start none again."""
        self.succession.end()
        self.kept.end(now, self._patience.envoy_stop)

    def kill(self) -> None:
        """Stop them all now."""
        self.succession.kill()
        self.kept.kill()

    def forget_request(self) -> None:
        """Whoever asked is gone, and its number means nothing to the next agent."""
        self._unanswered = None

    def take_news(self) -> list[bytes]:
        """Lines for the agent, each given once."""
        news, self._news = self._news, []
        return news

    def sweep(self) -> None:
        """Leave nothing of hot restarts behind. Only when no Envoy runs."""
        for last in self._lines:
            sweep(last, self._runtime_dir)
        self._lines.clear()

    def _hear_of_failure(self) -> None:
        """Should it crash, then what served comes back, and not what never did."""
        if self.succession.failed is not None:
            self._news.append(refusal_event(self.succession.failed, None))
            self._wanted, self._digest, self.succession.failed = self._serving, b"", None

    def _start(self) -> Process:
        assert self._wanted is not None  # noqa: S101
        self._digest = _digest(self._wanted)
        if not any(self.running):
            self.sweep()
        hot = self._wanted.hot and hot_restart_works()
        self._generation = new_line() if hot else None
        process = self._spawn(self._generation)
        self._serving = self._wanted
        self._news.append(envoy_event(process.pid, self._unanswered))
        self._unanswered = None
        return process

    def _spawn(self, generation: Generation | None, *more: str) -> Process:
        assert self._wanted is not None  # noqa: S101
        if generation is not None:
            self._lines.append(generation)
        how = [NO_HOT_RESTART] if generation is None else flags(generation, self._runtime_dir, self._patience)
        environ = {name: os.environ[name] for name in ENVOY_ENVIRONMENT if name in os.environ}
        argv = [*self._wanted.argv, *(how if self._wanted.hot else ()), *more]
        return spawn(argv, environ, dies_with_us=True)


def _read_wanted(left: Mapping[str, Any]) -> StartEnvoy:
    return StartEnvoy(**{**left, "argv": tuple(left["argv"])})


def _digest(wanted: StartEnvoy) -> bytes:
    """What an Envoy is started from: the hash of its bootstrap, and which file is its binary, since an upgrade may
    have replaced it under the same name. Raises OSError when the bootstrap cannot be read.
    """
    bootstrap = hashlib.sha256(Path(wanted.bootstrap).read_bytes()).digest()
    try:
        binary = Path(wanted.argv[0]).stat()
    except OSError:
        return bootstrap  # starting it will say what is wrong
    return bootstrap + b"%d %d %d %d" % (binary.st_dev, binary.st_ino, binary.st_size, binary.st_mtime_ns)


def _same_file(one: str, other: str) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
