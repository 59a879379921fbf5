"""What a log line must never hold."""

import pytest
import structlog

from pomerium_agent.runtime.log import configure_logging


def test_a_traceback_names_the_place_and_not_the_values(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    configure_logging("info", service="agent")
    try:
        cookie = "secret-cookie"
        try:
            raise LookupError(f"{len(cookie)} bytes")
        except LookupError:
            structlog.get_logger().exception("check failed")
    finally:
        structlog.configure(**before)

    line = capsys.readouterr().out
    assert "test_a_traceback_names_the_place_and_not_the_values" in line
    assert "secret-cookie" not in line
