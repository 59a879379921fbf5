"""The short way to write a line of the log."""

import json
from collections.abc import Iterator

import pytest
import structlog

from pomerium_agent.runtime.log import HELD, configure_logging, log_info, together

FIELDS = {"request-id": "r1", "allow": True, "allow-why-true": ["email-ok"], "path": "/\u00fc\ud800\n", "count": None}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_the_short_way_writes_the_same_line_as_a_logger(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", service="agent")

    structlog.get_logger().info("authorize check", **FIELDS)
    log_info("authorize check", FIELDS)

    long, short = capsys.readouterr().out.splitlines()
    assert list(json.loads(short)) == list(json.loads(long))
    assert json.loads(short) | {"time": ""} == json.loads(long) | {"time": ""}
    assert len(json.loads(short)["time"]) == len(json.loads(long)["time"])
    assert json.loads(short)["time"] >= json.loads(long)["time"]


def test_the_short_way_is_silent_where_a_logger_is(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warn", service="agent")

    log_info("authorize check", FIELDS)

    assert capsys.readouterr().out == ""


def test_the_short_way_is_captured_like_a_logger(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", service="agent")

    with structlog.testing.capture_logs() as logs:
        log_info("authorize check", FIELDS)

    assert logs == [{"event": "authorize check", "log_level": "info", **FIELDS}]
    assert capsys.readouterr().out == ""


def test_lines_that_are_held_come_before_whatever_is_logged_next(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", service="agent")

    with together():
        log_info("a", {})
        log_info("b", {"x": 1})
        held = capsys.readouterr().out
        structlog.get_logger().info("c")
        log_info("d", {})
    log_info("e", {})

    lines = capsys.readouterr().out.splitlines()
    assert held == ""
    assert [json.loads(line)["event"] for line in lines] == ["a", "b", "c", "d", "e"]


def test_lines_are_not_held_without_end(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", service="agent")

    with together():
        for _ in range(HELD):
            log_info("a", {})
        assert len(capsys.readouterr().out.splitlines()) == HELD


def test_lines_that_were_held_are_written_when_the_block_fails(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", service="agent")

    def fail() -> None:
        with together():
            log_info("a", {})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert json.loads(capsys.readouterr().out)["event"] == "a"
