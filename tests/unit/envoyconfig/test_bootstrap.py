"""What Envoy is started with (routes 12.1)."""

import json
from pathlib import Path

import pytest

from pomerium_agent.envoyconfig import build_bootstrap, envoy_arguments, envoy_log_level
from pomerium_agent.settings import LOG_LEVELS


def test_the_bootstrap_is_json_that_depends_on_nothing_but_the_sockets() -> None:
    """Architecture 1: a new agent adopts the running Envoy by these bytes."""
    first, second = (json.dumps(build_bootstrap(Path("/r/admin.sock"), Path("/r/ads.sock"))) for _ in range(2))

    assert first == second
    assert "/r/ads.sock" in first


def test_the_admin_socket_is_for_its_owner_only() -> None:
    """R-23."""
    text = json.dumps(build_bootstrap("/r/admin.sock", "/r/ads.sock"))

    assert '{"path": "/r/admin.sock", "mode": 384}' in text  # 0600


def test_expressions_may_be_as_large_as_pomerium_allows() -> None:
    """R-14, routes 4.4."""
    layers = json.dumps(build_bootstrap("a", "b")["layered_runtime"])

    assert '"re2.max_program_size.error_level": 1048576' in layers


def test_a_lost_agent_is_looked_for_every_second() -> None:
    """Envoy.md 4: with the default it may take half a minute."""
    dynamic = json.dumps(build_bootstrap("a", "b")["dynamic_resources"])

    assert '"retry_back_off": {"base_interval": "0.1s", "max_interval": "1s"}' in dynamic
    assert "DELTA_GRPC" in dynamic


def test_workers_are_left_to_envoy_unless_somebody_counts_them() -> None:
    assert "--concurrency" not in envoy_arguments("envoy", "b.json")
    assert envoy_arguments("envoy", "b.json", concurrency=2)[-2:] == ["--concurrency", "2"]


@pytest.mark.parametrize("level", ["", *LOG_LEVELS, "warning", "critical", "off", "none"])
def test_every_level_has_a_name_that_envoy_knows(level: str) -> None:
    assert envoy_log_level(level) in ("trace", "debug", "info", "warning", "error", "critical", "off")


def test_what_envoy_tells_about_itself_is_for_debugging() -> None:
    """R-23: Envoy's info is our debug."""
    assert envoy_log_level("info") == "warning"
    assert envoy_log_level("debug") == "debug"


def test_a_silent_name_server_does_not_hold_up_the_start_for_minutes() -> None:
    """R-26: Envoy opens its listeners only when every upstream's name was asked for."""
    resolver = build_bootstrap("a", "b")["typed_dns_resolver_config"]

    assert resolver["typed_config"]["query_timeout_seconds"] == 2  # type: ignore[index]  # plain JSON
    assert resolver["typed_config"]["query_tries"] == 2  # type: ignore[index]  # plain JSON
