"""Starts and stops the processes of a playground: real ones, each with its own log file and directory."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pomerium_agent.errors import SettingsError

STOP_SECONDS = 30.0  # a keeper drains Envoy first
READY_SECONDS = 60.0  # a cold machine imports slowly
TAIL_LINES = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A child process, its log, and what it said when it was ready."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def tail(self) -> str:
        """The end of its log, for an error message."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])


@asynccontextmanager
async def run_process(
    name: str, *arguments: str, directory: Path, environment: Mapping[str, str]
) -> AsyncIterator[Running]:
    """Run `pomerium-agent <arguments>` until the block ends; then stop it in order, and by force if need be."""
    log = directory / f"{name}.log"
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "pomerium_agent",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            start_new_session=True,  # Ctrl-C is for us; we stop the children in order
        )
    running = Running(name=name, process=process, log=log)
    try:
        yield running
    finally:
        await stop(process)


async def stop(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, a bounded wait, SIGKILL."""
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


async def wait_for_file(path: Path, running: Running) -> Mapping[str, object]:
    """The JSON object that `running` writes to `path` when it is ready."""
    try:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                if running.process.returncode is not None:
                    raise SettingsError(
                        f"{running.name} ended with code {running.process.returncode} before it was ready; "
                        f"the end of its log:\n{running.tail()}"
                    )
                found = _read_json(path)
                if found is not None:
                    return found
                await asyncio.sleep(0.05)  # another process's file: there is nothing to be woken by
    except TimeoutError as error:
        raise SettingsError(
            f"{running.name} was not ready within {READY_SECONDS:.0f} s; the end of its log:\n{running.tail()}"
        ) from error


def _read_json(path: Path) -> Mapping[str, object] | None:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return found if isinstance(found, dict) else None


async def run_verb(*arguments: str, data_dir: Path | None = None) -> str:
    """Run a verb of the command line, as a person would, with the console's data if it is about that; its output.

    Raises SettingsError with what it complained of when it fails.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "pomerium_agent",
        *arguments,
        *(("--data-dir", str(data_dir)) if data_dir else ()),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=base_environment(),
    )
    output, complaint = await process.communicate()
    if process.returncode:
        raise SettingsError(f"pomerium-agent {' '.join(arguments[:2])} failed: {complaint.decode().strip()}")
    return output.decode()


def base_environment() -> dict[str, str]:
    """What children inherit: nothing that would make them someone else's replica."""
    keep = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "LOG_LEVEL", "SYSTEMROOT")
    return {name: os.environ[name] for name in keep if name in os.environ}
