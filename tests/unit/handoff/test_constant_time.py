"""Secrets are compared in a time that does not depend on where they differ (N-5)."""

import hmac
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from pomerium_agent.errors import HandoffRejected
from pomerium_agent.handoff import nonce
from pomerium_agent.handoff.proof import check_proof, make_proof
from pomerium_agent.handoff.signed import signed_url, verify_signed_url
from pomerium_agent.sessions.handle import Handle, parse_handle, sign_handle

KEY, OTHER = bytes(range(32)), bytes(32)
NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
HOST = "app.example.com"


def believed(check: Callable[[], object]) -> bool:
    """Whether a check says yes, in whichever way it says so."""
    try:
        found = check()
    except HandoffRejected:
        return False
    return (found is not None and found is not False) or check.__name__ in ("url", "proof")


def url() -> None:
    verify_signed_url(signed_url(f"https://{HOST}/x", [("a", "b")], OTHER, NOW), KEY, NOW)


def proof() -> None:
    check_proof(KEY, make_proof(OTHER, "/path", b"body", NOW), "/path", b"body", NOW)


def handle() -> object:
    return parse_handle(sign_handle(Handle(id="s"), OTHER), (KEY,))


def login() -> bool:
    cookie = nonce.new_cookie()
    return nonce.matches(KEY, cookie, HOST, nonce.echo_of(OTHER, cookie, HOST))


@pytest.mark.parametrize("check", [url, proof, handle, login], ids=lambda check: check.__name__)
def test_nothing_but_the_comparison_in_constant_time_decides(
    check: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """N-5: made with another key it is refused, and would be believed if that one comparison said that it is equal."""
    assert not believed(check)

    monkeypatch.setattr(hmac, "compare_digest", lambda _one, _other: True)

    assert believed(check)
