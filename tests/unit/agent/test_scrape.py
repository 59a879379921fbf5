"""Who may have metrics, and what they are shown (routes 7.5)."""

import base64
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.scrape import OwnProcess, knows, serve_metrics
from pomerium_agent.config import Compiled
from pomerium_agent.config.snapshot import Address, MetricsListener
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.settings import Secret
from tests.fakes.snapshots import snapshot

EXPECTED = Secret("ada:lovelace")
HEADER = "Basic YWRhOmxvdmVsYWNl"


@asynccontextmanager
async def scraped(directory: Path, board: Board) -> AsyncIterator[aiohttp.ClientSession]:
    path = directory / "metrics.sock"
    async with (
        serve_metrics(path, board),
        aiohttp.ClientSession("http://agent", connector=aiohttp.UnixConnector(str(path))) as client,
    ):
        yield client


def a_board(metrics: MetricsListener | None = None, *, offered: bool = True) -> Board:
    found = Compiled(snapshot(metrics=metrics)) if offered else None
    return Board(version="1", instance="i", health=Health(), keeper_pid=1, offered=found)


def open_to(basic_auth: Secret | None = None) -> MetricsListener:
    return MetricsListener(address=Address(host="127.0.0.1", port=9902), basic_auth=basic_auth)


def test_only_this_name_with_this_password_will_do() -> None:
    assert knows(HEADER, EXPECTED)
    assert knows(HEADER.replace("Basic", "basic"), EXPECTED)
    for wrong in (
        "",
        "Basic",
        "Basic !",
        "Bearer YWRhOmxvdmVsYWNl",
        "YWRhOmxvdmVsYWNl",
        HEADER + "x",
        "Basic " + "A" * 9000,
    ):
        assert not knows(wrong, EXPECTED)


@given(st.text() | st.binary().map(lambda said: "Basic " + base64.b64encode(said).decode()))
def test_nothing_else_opens_and_nothing_breaks(said: str) -> None:
    assert not knows(said, Secret("a name nobody guesses:a password nobody guesses"))


async def test_both_paths_ask_for_the_password(tmp_path: Path) -> None:
    """Routes 7.5, where Pomerium leaves the second one open."""
    board = a_board(open_to(EXPECTED))
    async with scraped(tmp_path, board) as client:
        for path in ("/metrics", "/metrics/envoy"):
            for headers in ({}, {"Authorization": "Basic YWRhOndyb25n"}):
                async with client.get(path, headers=headers) as answer:
                    assert answer.status == 401
                    assert answer.headers["WWW-Authenticate"].startswith("Basic ")
                    assert "pomerium_" not in await answer.text()
        twice = [("Authorization", "Basic YWRhOndyb25n"), ("Authorization", HEADER)]
        async with client.get("/metrics", headers=twice) as answer:
            assert answer.status == 401
        async with client.get("/metrics", headers={"Authorization": HEADER}) as answer:
            text = await answer.text()
            assert answer.status == 200
            assert answer.content_type == "text/plain"
    assert 'pomerium_metrics_requests_total{result="unauthorized"} 5.0' in text
    assert "pomerium_envoy_scraped 0" in text
    assert "process_resident_memory_bytes" in text


async def test_before_there_is_a_configuration_nobody_is_let_in(tmp_path: Path) -> None:
    """An Envoy that we adopted may have the listener already, and we do not know its password yet."""
    for board in (a_board(offered=False), a_board(None)):
        async with scraped(tmp_path, board) as client, client.get("/metrics") as answer:
            assert answer.status == 503
            assert "pomerium_" not in await answer.text()


async def test_envoy_alone_is_not_to_be_had_while_it_does_not_answer(tmp_path: Path) -> None:
    async with scraped(tmp_path, a_board(open_to())) as client, client.get("/metrics/envoy") as answer:
        assert answer.status == 503


async def test_only_two_paths_are_there_and_only_to_read(tmp_path: Path) -> None:
    async with scraped(tmp_path, a_board(open_to())) as client:
        for path in ("/", "/status", "/config_dump", "/metrics/", "/metrics/envoy/stats"):
            async with client.get(path) as answer:
                assert answer.status == 404
        async with client.post("/metrics") as answer:
            assert answer.status == 405


async def test_the_socket_is_ours_alone_and_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    path.write_text("left by somebody")
    async with scraped(tmp_path, a_board(open_to())) as client, client.get("/metrics") as answer:
        assert answer.status == 200
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_what_is_wrong_shows(tmp_path: Path) -> None:
    board = a_board(open_to())
    board.health.failed(Check.STORAGE, "out of reach")
    board.health.running(Check.ENVOY)
    async with scraped(tmp_path, board) as client, client.get("/metrics") as answer:
        text = await answer.text()

    assert 'pomerium_health_check{check="storage.backend"} 0.0' in text
    assert 'pomerium_health_check{check="envoy.server"} 1.0' in text
    assert "pomerium_control_plane_connected 0.0" in text
    assert "pomerium_ready 0.0" in text


def test_the_process_is_measured_where_only_processes_are_visible(tmp_path: Path) -> None:
    """Routes 7.5: the service has ProcSubset=pid, so there is no /proc/stat, and alerts ask for these metrics."""
    (tmp_path / "self").symlink_to("/proc/self")
    registry = CollectorRegistry()

    OwnProcess(proc=str(tmp_path), registry=registry)

    began = registry.get_sample_value("process_start_time_seconds")
    assert began is not None and 0 < began <= time.time() + 1  # noqa: PT018
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
        assert registry.get_sample_value(name) is not None
