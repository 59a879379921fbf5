"""The one screen of `status`, over a real control socket, and log levels that change while a replica runs."""

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.control import serve_control
from pomerium_agent.cli.screen import screen
from pomerium_agent.cli.status import ask
from pomerium_agent.config import Compiled
from pomerium_agent.config.snapshot import Certificate, ConfigSnapshot, Settings
from pomerium_agent.errors import SettingsError
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.log import configure_logging
from tests.fakes.authority import issue_for_loopback

NOW = datetime.now(UTC)


@pytest.fixture
def logging_restored() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
async def replica(tmp_path: Path) -> AsyncIterator[Path]:
    """The control socket of a replica with one certificate, whose Envoy does not run."""
    health = Health()
    health.running(Check.ZERO_LEASE, role="standby")
    health.failed(Check.STORAGE, "the disk is full")
    issued = issue_for_loopback()
    certificate = Certificate(
        id="c", chain=issued.certificate.decode(), key=issued.key.decode(), names=("localhost", "127.0.0.1")
    )
    board = Board(
        version="1",
        instance="i",
        health=health,
        keeper_pid=1,
        offered=Compiled(ConfigSnapshot(settings=Settings(certificates=(certificate,)), routes=())),
        taken_at=NOW - timedelta(minutes=5),
    )
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        async with serve_control(sock, board):
            yield path


async def test_one_screen_says_how_everything_is(replica: Path) -> None:
    found = await asyncio.to_thread(ask, replica, "/overview")

    lines = list(screen(found))

    assert "PRIVATE KEY" not in json.dumps(found)
    assert "cluster       not known yet, organization not known yet" in lines
    assert "databroker    TROUBLE, see below" in lines
    assert "lease         standby" in lines
    assert "envoy         not known yet, and does not tell its requests" in lines
    assert any(line.startswith("certificate   localhost, 127.0.0.1: ") and "days left" in line for line in lines)
    assert any(re.search(r"\(\d+ minutes ago\)", line) for line in lines)
    assert "check         storage.backend: the disk is full" in lines


async def test_requests_per_second_come_from_two_looks(replica: Path) -> None:
    found: dict[str, Any] = await asyncio.to_thread(ask, replica, "/overview")
    before = {**found, "requests": 100, "at": NOW.isoformat()}
    after = {**found, "requests": 150, "at": (NOW + timedelta(seconds=2)).isoformat()}

    assert "envoy         not known yet, 150 requests, 25.0 a second" in list(screen(after, before))
    assert "envoy         not known yet, 50 requests" in list(screen({**before, "requests": 50}, after))  # it restarted


@pytest.mark.usefixtures("logging_restored")
async def test_the_log_level_changes_at_once(replica: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", service="agent")
    log = structlog.get_logger("test")
    log.debug("not seen")

    told = await asyncio.to_thread(ask, replica, "/log-level", {"agent": "debug"})
    log.debug("seen")
    await asyncio.to_thread(ask, replica, "/log-level", {"agent": "error"})
    log.warning("not seen either")

    events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert told == {"agent": "debug"}
    assert "seen" in events
    assert not {"not seen", "not seen either"} & set(events)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"agent": "chatty"}, "the level is one of"),
        ({}, "is set for agent"),
        ({"console": "info"}, "is set for agent"),
        ({"agent": ["info"]}, "the level is one of"),
        ({"proxy": "debug"}, "has not been started"),
    ],
)
async def test_a_level_that_cannot_be_is_refused(replica: Path, asked: object, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        await asyncio.to_thread(ask, replica, "/log-level", asked)
