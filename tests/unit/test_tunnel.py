"""The client's end of a TCP route: what may be asked for, and what an answer means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.cli.tunnel import Door, checked_token, find_door, read_place, refusal, refused
from pomerium_agent.errors import SettingsError
from pomerium_agent.settings import Secret

DOOR = find_door("db.example.com:5432", token=Secret("abc.def"))


def test_a_target_says_which_proxy_is_asked_unless_one_is_given() -> None:
    """Routes 3.2."""
    assert (DOOR.host, DOOR.port, DOOR.target, DOOR.at) == ("db.example.com", 443, DOOR.target, ("db.example.com", 443))
    behind = find_door("tcp+https://front.example.com:8443/DB:5432/")
    assert (behind.host, behind.port, behind.target) == ("front.example.com", 8443, "db:5432")
    plain = find_door("tcp+https://db.example.com:5432", proxy="https://door.example.com:444", at=("127.0.0.1", 9))
    assert (plain.host, plain.port, plain.target) == ("door.example.com", 444, "db.example.com:5432")
    assert plain.at == ("127.0.0.1", 9)
    assert find_door("[::1]:22").host == "::1"


def test_a_target_says_whether_it_is_for_datagrams() -> None:
    """Routes 3.1."""
    for target in ("udp://dns.test:53", "udp+https://dns.test:53", "udp+https://door.test/dns.test:53"):
        found = find_door(target)
        assert (found.kind, found.target) == ("udp", "dns.test:53")
    assert find_door("udp+https://door.test/dns.test:53").host == "door.test"
    assert find_door("tcp://dns.test:53").kind == find_door("dns.test:53").kind == "tcp"
    assert "no udp route" in refused(404, find_door("udp://dns.test:53"))


@pytest.mark.parametrize("target", ["", "db", "db:", "db:0", "db:65536", "db:x", "a b:1", "db:1\r\nX: y", "u@db:1"])
def test_a_target_is_a_host_and_a_port(target: str) -> None:
    with pytest.raises(SettingsError, match="TARGET"):
        find_door(target)


@pytest.mark.parametrize("proxy", ["http://a", "a:443", "https://", "https://u:p@a", "https://a/x", "https://a:x"])
def test_the_proxy_is_asked_over_tls_only(proxy: str) -> None:
    with pytest.raises(SettingsError, match="--proxy") as refused:
        find_door("db:1", proxy=proxy)
    assert "u:p" not in str(refused.value)


def test_the_token_goes_into_one_header_and_is_not_shown() -> None:
    assert DOOR.request() == (
        b"CONNECT db.example.com:5432 HTTP/1.1\r\nHost: db.example.com:5432\r\n"
        b"Authorization: Bearer Pomerium-abc.def\r\n\r\n"
    )
    assert "abc" not in repr(DOOR)
    assert b"Authorization" not in find_door("db:1").request()
    assert checked_token(" abc.def\n") == "abc.def"
    for text in ("", "a b", "a\r\nX: y", "ü"):
        with pytest.raises(SettingsError, match="--token-file"):
            checked_token(text)


@pytest.mark.parametrize("text", ["", "5432", ":1", "a:", "a:65536", "a:-1"])
def test_a_place_is_an_address_and_a_port(text: str) -> None:
    assert read_place("--listen", "[::1]:0") == ("::1", 0)
    with pytest.raises(SettingsError, match="--listen"):
        read_place("--listen", text)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(200, ""), (302, "--token-file"), (401, "--token-file"), (403, "does not let you in"), (404, "no tcp route")],
)
def test_an_answer_is_explained(status: int, reason: str) -> None:
    said = refusal(f"HTTP/1.1 {status} Whatever\r\n\r\n".encode(), DOOR)
    assert reason in said
    assert bool(said) is bool(reason)


@given(st.binary(max_size=40))
def test_nothing_but_a_success_opens_a_tunnel(head: bytes) -> None:
    assert refusal(head, DOOR) or head.startswith(b"HTTP/1.")
    assert isinstance(DOOR, Door)
