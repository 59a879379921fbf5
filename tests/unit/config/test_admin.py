"""Envoy's admin: an address that only this machine reaches, and a log that writes no file."""

import pytest

from pomerium_agent.config.admin import parse_admin_address, parse_admin_log
from pomerium_agent.config.complaints import Unusable
from pomerium_agent.config.snapshot import Address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9000", Address(host="127.0.0.1", port=9000)),
        ("localhost", Address(host="127.0.0.1", port=9901)),
        ("[::1]:9902", Address(host="::1", port=9902)),
    ],
)
def test_an_address_of_loopback_is_taken(text: str, address: Address) -> None:
    """Routes 1.7 (110)."""
    assert parse_admin_address(text) == address


@pytest.mark.parametrize("text", [":9901", "0.0.0.0:9901", "10.0.0.1:9901", "[::]:9901", "192.0.2.1"])
def test_no_other_is(text: str) -> None:
    with pytest.raises(Unusable, match="reached from other machines"):
        parse_admin_address(text)


def test_a_log_is_one_of_the_standard_streams() -> None:
    """Routes 1.7 (108)."""
    assert [parse_admin_log(path) for path in ("", "/dev/null", "/dev/stderr")] == [
        "/dev/null",
        "/dev/null",
        "/dev/stderr",
    ]
    with pytest.raises(Unusable, match="may not write"):
        parse_admin_log("/root/.ssh/authorized_keys")
