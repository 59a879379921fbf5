"""What `pomerium-agent status` says of the configuration that visitors get."""

from datetime import UTC, datetime, timedelta

import pytest

from pomerium_agent.cli.status import in_force


@pytest.mark.parametrize(
    ("in_force_now", "offered", "resumed", "words"),
    [
        ("", "", False, "nothing yet; the control plane has not told what to serve"),
        ("", "", True, "what envoy had before this agent began; the control plane has not been heard since"),
        ("", "b2", False, "nothing yet, 3 routes (envoy has not yet taken b2)"),
        ("a1", "a1", False, "a1, 3 routes"),
        ("a1", "b2", False, "a1, 3 routes (envoy has not yet taken b2)"),
    ],
)
def test_the_status_says_what_visitors_get(in_force_now: str, offered: str, resumed: bool, words: str) -> None:
    config = {"in_force": in_force_now, "offered": offered, "resumed": resumed, "routes": 3}

    assert in_force(config) == words


@pytest.mark.parametrize(
    ("later", "ago"),
    [
        (timedelta(days=3, hours=5), " (3 days ago)"),
        (timedelta(hours=47), " (47 hours ago)"),
        (timedelta(minutes=119), " (119 minutes ago)"),
        (timedelta(seconds=119), " (119 seconds ago)"),
        (timedelta(seconds=-1), ""),
    ],
)
def test_a_last_known_good_configuration_says_how_old_it_is(later: timedelta, ago: str) -> None:
    """Z-65."""
    at = datetime(2030, 1, 1, tzinfo=UTC)
    config = {"in_force": "a1", "offered": "a1", "resumed": False, "routes": 3, "last_good_of": at.isoformat()}

    assert in_force(config, at + later) == (
        f"a1, 3 routes, as it was last known to be good at 2030-01-01T00:00:00+00:00{ago}; "
        "nothing newer was heard since this agent began"
    )
