"""What others wrote cannot steer the terminal of whoever reads it."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pomerium_agent.__main__ import exit_code
from pomerium_agent.agent.board import Board
from pomerium_agent.agent.control import serve_control
from pomerium_agent.cli.app import app
from pomerium_agent.cli.plain import plain, plain_lines
from pomerium_agent.cli.screen import screen
from pomerium_agent.cli.status import ask
from pomerium_agent.config import Compiled
from pomerium_agent.config.snapshot import ConfigSnapshot, Settings
from pomerium_agent.console.sightings import HealthReport, Sighting
from pomerium_agent.console.store import open_store
from pomerium_agent.errors import ControlPlaneUnavailable, Refused, SettingsError
from pomerium_agent.runtime.health import Check, Health
from tests.fakes.console import NOW, QUICKSTART
from tests.fakes.control_plane import TOKEN, say, serve_control_plane

WIPE = "\x1b[2J\x9b2J\r\u202ewiped"  # clears the screen, twice; writes over the line, and backwards


def steers(text: str) -> bool:
    return any(not letter.isprintable() and letter != "\n" for letter in text)


@given(st.text())
def test_plain_text_is_printable(text: str) -> None:
    assert plain(text).isprintable()
    assert not steers(plain_lines(text))


def hostile(value: Any) -> Any:
    """The same, with every word that is not a time or the name of something written by somebody hostile."""
    if isinstance(value, dict):
        return {key: each if key in ("at", "in_force_since") else hostile(each) for key, each in value.items()}
    if isinstance(value, list):
        return [hostile(each) for each in value]
    return value + WIPE if isinstance(value, str) else value


async def test_the_screen_of_a_replica_is_plain(tmp_path: Path) -> None:
    health = Health()
    health.failed(Check.STORAGE, f"first{WIPE}\nsecond")
    board = Board(
        version="1",
        instance="i",
        health=health,
        keeper_pid=1,
        offered=Compiled(ConfigSnapshot(settings=Settings(), routes=())),
        taken_at=NOW,
    )
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        async with serve_control(sock, board):
            found = await asyncio.to_thread(ask, path, "/overview")

    fault = {"warning": False, "subject": "s", "field": "f", "reason": "r", "remedy": "x", "id": "i"}
    certificate = {"names": ["a"], "self_signed_fallback": False, "days": -1, "not_after": "yesterday"}
    found["config"]["faults"], found["certificates"] = [fault], [certificate]
    lines = list(screen(found)) + list(screen(hostile(found)))

    assert any("storage.backend: first" in line for line in lines)
    assert not any(steers(line) or "\n" in line for line in lines)


async def test_a_probe_that_fails_is_told_plainly(tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = WIPE.encode()
        writer.write(b"HTTP/1.1 503 no\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    path = tmp_path / "control.sock"
    async with await asyncio.start_unix_server(answer, path):
        done = await asyncio.to_thread(CliRunner().invoke, app, ["health", "--socket", str(path)])

    assert done.exit_code == 1
    assert "wiped" in done.stderr
    assert not steers(done.stderr)


@pytest.mark.parametrize("kind", [Refused, SettingsError, ControlPlaneUnavailable])
def test_an_error_is_told_plainly(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    exit_code(kind(f"first{WIPE}\nsecond"))

    said = capsys.readouterr().err
    assert said.startswith("pomerium-agent: first")
    assert said.endswith("\nsecond\n")
    assert not steers(said)


async def test_what_a_control_plane_says_of_an_import_is_told_plainly(tmp_path: Path) -> None:
    """Z-67."""
    async with serve_control_plane() as plane:
        plane.script("import", say({"messages": [f"m{WIPE}"], "warnings": [f"w{WIPE}"]}))
        env = {"POMERIUM_ZERO_TOKEN": str(TOKEN), "CLUSTER_API_ENDPOINT": f"{plane.http_url}/v1"}
        done = await asyncio.to_thread(CliRunner().invoke, app, ["import", str(QUICKSTART)], env=env)

    assert done.exit_code == 0, done
    assert "m?" in done.stdout
    assert "warning: w?" in done.stderr
    assert not steers(done.output)


def test_what_replicas_say_is_shown_plainly_by_the_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POMERIUM_CONSOLE_DATA", str(tmp_path / "data"))
    made = json.loads(CliRunner().invoke(app, ["console", "cluster", "create", "demo", "--json"]).stdout)
    with open_store(tmp_path / "data", create=False) as store:
        cluster = store.cluster(made["name"])
        replica = Sighting(cluster_id=cluster.id, instance=f"i{WIPE}", hostname=f"h{WIPE}", version=f"v{WIPE}")
        text = f"storage{WIPE}"
        reports = [
            HealthReport(check=f"storage{WIPE}", error=text),
            HealthReport(check="routes.reachable", error=f"a.example.com: key not found{WIPE}"),
            HealthReport(check="config.databroker.build", error=text, attributes={f"fault.x{WIPE}": text}),
        ]
        store.sightings.joined(replica, NOW)
        store.sightings.reported(replica, reports, NOW)
    monkeypatch.setattr("pomerium_agent.cli.console.utc_now", lambda: NOW)

    done = CliRunner().invoke(app, ["console", "status"])

    assert done.exit_code == 0, done
    assert "storage?" in done.stdout
    assert not steers(done.stdout)
