"""The short way to write a line of the log."""

import json
from collections.abc import Iterator

import pytest
import structlog

from pomerium_agent.runtime.log import configure_logging, log_info

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
