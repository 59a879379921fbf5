"""The probes mean different things, and none of them asks after the control plane (issue "Probes and signals")."""

import asyncio
import socket
from pathlib import Path

import pytest

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.control import serve_control
from pomerium_agent.cli.health import probe
from pomerium_agent.runtime.health import Health

NO_CONFIG, NO_ENVOY, STOPPING = (
    "no configuration is in force yet",
    "envoy is not running",
    "this replica is stopping",
)


@pytest.mark.parametrize(
    ("in_force", "envoy", "draining", "startup", "ready"),
    [
        ("", 0, False, NO_CONFIG, NO_CONFIG),
        ("", 7, False, NO_CONFIG, NO_CONFIG),
        ("digest", 7, False, "", ""),
        ("digest", 0, False, "", NO_ENVOY),
        ("digest", 7, True, "", STOPPING),
    ],
)
async def test_each_probe_says_its_own_thing(
    tmp_path: Path, in_force: str, envoy: int, draining: bool, startup: str, ready: str
) -> None:
    """There is no link to a control plane here at all, and that fails none of them."""
    board = Board(version="1", instance="i", health=Health(), keeper_pid=1, draining=draining)
    board.in_force.set(in_force)
    board.envoy_pid.set(envoy)
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        async with serve_control(sock, board):
            said = [await asyncio.to_thread(probe, path, each) for each in ("/startupz", "/readyz", "/healthz")]

    assert said == [startup, ready, ""]


def test_a_replica_that_is_not_there_is_not_healthy(tmp_path: Path) -> None:
    assert "no replica answers" in probe(tmp_path / "control.sock", "/healthz")
