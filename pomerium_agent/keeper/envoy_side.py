"""The keeper's side of Envoy: which one is wanted, whether it is the one that runs, and what the agent hears of it."""

import filecmp
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pomerium_agent.keeper.children import Kept, Patience, Process, spawn
from pomerium_agent.keeper.log import Log
from pomerium_agent.keeper.wire import StartEnvoy, envoy_event, refusal_event

ENVOY_ENVIRONMENT = ("PATH", "TZ", "TMPDIR")


class EnvoySide:
    """A kept Envoy. What the agent should hear of it waits in `take_news`, for the loop to pass on."""

    def __init__(self, patience: Patience, log: Log) -> None:
        self.kept = Kept("envoy", self._start, patience, log)
        self._stop_within = patience.envoy_stop
        self._log = log
        self._wanted: StartEnvoy | None = None
        self._digest = b""
        self._unanswered: int | None = None  # the request that the next start answers
        self._news: list[bytes] = []

    def want(self, wanted: StartEnvoy) -> None:
        """Adopt the Envoy that runs if it is the one wanted; else start it, in place of the one that runs."""
        try:
            digest = _digest(wanted.bootstrap)
        except OSError as error:
            reason = f"cannot read the bootstrap file {wanted.bootstrap}: {error.strerror}"
            self._log.error("envoy refused", reason=reason)
            self._news.append(refusal_event(reason, wanted.request))
            return
        running = self._wanted
        same = running is not None and self._digest == digest and _same_command(running.argv, wanted.argv)
        self._wanted = wanted
        if same and self.kept.process is not None and not self.kept.coming:
            self._log.info("envoy adopted", pid=self.kept.process.pid)
            self._news.append(envoy_event(self.kept.process.pid, wanted.request))
            return
        self._unanswered = wanted.request
        if not (same and self.kept.coming):
            self._digest = digest
            self.kept.begin(time.monotonic(), self._stop_within)

    def show(self, wanted: StartEnvoy) -> bytes:
        """What an agent that is not in charge hears when it wants one: which Envoy runs, be it that one or not."""
        return envoy_event(self.kept.process.pid if self.kept.process is not None else 0, wanted.request)

    def leave(self) -> dict[str, Any]:
        """What the next keeper needs to go on with it; empty when none was wanted yet."""
        if self._wanted is None or self.kept.process is None:
            return {}
        return {
            "pid": self.kept.process.pid,
            "began": self.kept.began,
            "argv": list(self._wanted.argv),
            "bootstrap": self._wanted.bootstrap,
            "digest": self._digest.hex(),
        }

    def inherit(self, left: Mapping[str, Any]) -> None:
        """Go on with the Envoy that a keeper before us had."""
        if left:
            self._wanted = StartEnvoy(tuple(left["argv"]), left["bootstrap"], None)
            self._digest = bytes.fromhex(left["digest"])
            self.kept.adopt(left["pid"], left["began"])

    def ended(self, now: float) -> None:
        """The process was reaped."""
        self.kept.ended(now)
        self._news.append(envoy_event(0, None))

    def forget_request(self) -> None:
        """Whoever asked is gone, and its number means nothing to the next agent."""
        self._unanswered = None

    def take_news(self) -> list[bytes]:
        """Lines for the agent, each given once."""
        news, self._news = self._news, []
        return news

    def _start(self) -> Process:
        assert self._wanted is not None  # noqa: S101
        self._digest = _digest(self._wanted.bootstrap)
        environ = {name: os.environ[name] for name in ENVOY_ENVIRONMENT if name in os.environ}
        process = spawn(self._wanted.argv, environ, dies_with_us=True)
        self._news.append(envoy_event(process.pid, self._unanswered))
        self._unanswered = None
        return process


def _same_command(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether it is the same to start either: another release may bring the same binary in another place."""
    if one[1:] != other[1:]:
        return False
    try:
        return one[0] == other[0] or filecmp.cmp(one[0], other[0], shallow=False)
    except OSError:
        return False


def _digest(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()
