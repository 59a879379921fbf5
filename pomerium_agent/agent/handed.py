"""Which configuration the Envoy that runs was handed last: written beside its sockets, for the agent after us.

Without it an agent that adopts an Envoy cannot know whether what is kept on disk is what Envoy has, or older.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog

from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.waiting import in_thread_to_the_end

log = structlog.get_logger(__name__)

NAME = "handed.json"
MAX_BYTES = 4096


class Handed(NamedTuple):
    """A digest, and the process id of the Envoy that was offered it."""

    digest: str
    envoy: int


class HandedNote:
    """One small file in the runtime directory, which ends with Envoy and its keeper."""

    def __init__(self, directory: Path, envoy_pid: Latest[int], *, ours: bool = True) -> None:
        self._path = directory / NAME
        self._envoy_pid = envoy_pid
        self._digest = ""
        self._ours = ours  # Envoy is handed things by us, and not yet by the agent whose place we come to take
        self._writing = asyncio.Lock()

    async def load(self) -> Handed | None:
        """What the agent before us wrote; None when it wrote nothing that can be read."""
        return await asyncio.to_thread(_read, self._path)

    async def write(self, digest: str) -> None:
        """Say so before it is offered: after a crash in between, what Envoy has is unknown, and not wrong."""
        self._digest = digest
        await self._write()

    async def follow_envoy(self) -> None:
        """Another Envoy gets the same; for ever."""
        async with aclosing(self._envoy_pid.follow()) as pids:
            async for pid in pids:
                if pid and self._digest:
                    await self._write()

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """From now on it is us who hand Envoy its configuration."""
        self._ours = True
        if self._digest:
            await self._write()
        yield

    async def _write(self) -> None:
        if not self._ours:
            return
        async with self._writing:
            handed = Handed(self._digest, self._envoy_pid.value)
            try:
                await in_thread_to_the_end(partial(_replace, self._path, json.dumps(handed._asdict())))
            except OSError as error:
                log.warning("what envoy was handed is not noted", path=str(self._path), reason=error.strerror)


def _read(path: Path) -> Handed | None:
    try:
        with path.open("rb") as file:
            said = json.loads(file.read(MAX_BYTES))
        return Handed(str(said["digest"]), int(said["envoy"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _replace(path: Path, text: str) -> None:
    """Raises OSError; then there is none, since the one before is no longer true."""
    temporary = path.with_suffix(".new")
    try:
        with open(temporary, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:  # mode at birth
            file.write(text)
        temporary.replace(path)
    except OSError:
        path.unlink(missing_ok=True)
        raise
