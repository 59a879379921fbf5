"""What `pomerium-agent status` says of the configuration that visitors get."""

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
