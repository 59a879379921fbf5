"""Where nobody is sent, whatever a URL looks like (N-41)."""

from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pomerium_agent.authenticate import Site
from pomerium_agent.authenticate.targets import check_callback, check_page, check_redirect, with_jwt
from pomerium_agent.config.login import Login
from pomerium_agent.errors import HandoffRejected

SITE = Site(hosts=frozenset({"app.example.com", "odd.example.com:8443"}), wildcards=("*.apps.example.com",))
HOSTS = ["app.example.com", ".apps.example.com", "evil.net", "[", "]", "::1", ":443", ":x", "é", "ａ"]
MARKS = ["https:", "http:", "javascript:", "//", "/", "\\", "@", "?", "#", "%2f", "%00", "\t", "\n", " ", ";", "&", ""]
PIECES = st.sampled_from(HOSTS + MARKS)


@pytest.mark.parametrize(
    "url",
    [
        "https://app.example.com",
        "https://APP.example.com/x?y=https://evil.net#z",
        "https://app.example.com:8443/",
        "https://a.b.apps.example.com/",
        "https://odd.example.com:8443/",
    ],
)
def test_pages_of_this_cluster(url: str) -> None:
    check_page(SITE, url)


@example(["https:", "//", "evil.net", "\\", ".apps.example.com"])
@example(["https:", "//", "evil.net", "#", ".apps.example.com"])
@example(["https:", "//", "evil.net", "?", ".apps.example.com"])
@example(["https:", "//", "evil.net", "\t", ".apps.example.com"])
@example(["https:", "//", "evil.net", "%2f", ".apps.example.com"])
@given(st.lists(PIECES, max_size=9))
def test_whatever_is_let_through_is_read_alike_by_everybody(pieces: list[str]) -> None:
    """A browser takes a backslash for a slash, and drops tabs: then the host is another one."""
    url = "".join(pieces)
    try:
        check_redirect(SITE, url, programmatic=False)
    except HandoffRejected:
        return
    as_browsers_do = url.replace("\t", "").replace("\n", "").replace("\\", "/")
    host = urlsplit(as_browsers_do).hostname or ""
    assert url.startswith("https://")
    assert host == "app.example.com" or host.endswith(".apps.example.com")
    assert "evil.net" not in host or host.endswith(".apps.example.com")


@pytest.mark.parametrize("path", ["", "/", "/.pomerium/callback", "/.pomerium/callback/x", "/.pomerium/../x"])
def test_only_a_callback_is_a_callback(path: str) -> None:
    check_callback(SITE, "https://app.example.com/.pomerium/callback/?x=y")

    with pytest.raises(HandoffRejected):
        check_callback(SITE, f"https://app.example.com{path}")


def test_a_program_may_also_end_on_a_page_of_this_cluster() -> None:
    check_redirect(SITE, "https://app.example.com/", programmatic=True)
    check_redirect(SITE, "http://localhost:1/", programmatic=True)
    with pytest.raises(HandoffRejected):
        check_redirect(SITE, "http://localhost:1/", programmatic=False)
    with pytest.raises(HandoffRejected):
        check_redirect(replace(SITE, login=Login(programmatic_domains=())), "http://localhost:1/", programmatic=True)


def test_a_handle_that_is_there_already_is_replaced() -> None:
    assert with_jwt("http://localhost:1/?a=b&pomerium_jwt=old#f", "new") == "http://localhost:1/?a=b&pomerium_jwt=new#f"
