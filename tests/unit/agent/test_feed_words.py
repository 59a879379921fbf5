"""What an operator reads of Envoy: nothing while it starts, and what to do when it will not take something."""

import asyncio
from pathlib import Path

import pytest

from pomerium_agent.agent.feed import START_SECONDS, in_words, watch_envoy
from pomerium_agent.envoy.admin import open_admin
from pomerium_agent.envoy.ads_state import Rejection
from pomerium_agent.envoyconfig.resources import CLUSTER, LISTENER
from pomerium_agent.runtime.health import Check, Health
from tests.fakes.clock import ManualClock

BIND = "Error adding/updating listener(s) {}: cannot bind '{}': {}\n"


@pytest.mark.parametrize(
    ("name", "reason", "remedy"),
    [
        ("https-ingress", "Address already in use", "; free the port, or choose another address with ADDRESS"),
        ("http-redirect", "Address already in use", "; free the port, or choose another address with HTTP_REDIRECT"),
        ("https-ingress", "Permission denied", "; give the service CAP_NET_BIND_SERVICE, or choose another address"),
    ],
)
def test_a_port_that_cannot_be_had_is_named_with_the_remedy(name: str, reason: str, remedy: str) -> None:
    """Routes 13."""
    words = in_words(Rejection(LISTENER, name, "1", BIND.format(name, "[::]:443", reason)))

    assert words.startswith(f"envoy refuses {name}: cannot bind '[::]:443': {reason}{remedy}")
    assert "\n" not in words


def test_another_refusal_is_told_in_envoys_words() -> None:
    assert in_words(Rejection(CLUSTER, "a", "1", "no such thing\n")) == "envoy refuses a: no such thing"


async def test_a_start_takes_a_moment_and_only_then_is_a_missing_envoy_reported(tmp_path: Path) -> None:
    """R-23."""
    health, clock = Health(), ManualClock()
    async with open_admin(tmp_path / "none.sock") as admin, asyncio.TaskGroup() as group:
        watching = group.create_task(watch_envoy(admin, health, clock))
        await clock.until_sleeping()
        at_first = dict(health.reports)

        clock.jump(START_SECONDS)
        await clock.advance(1.0)
        await clock.until_sleeping()

        assert at_first == {}
        assert "does not answer" in health.reports[Check.ENVOY].error
        watching.cancel()
