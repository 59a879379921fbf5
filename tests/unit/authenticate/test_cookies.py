"""Cookies, to the letter (authenticate 3.8, N-26)."""

from datetime import UTC, datetime, timedelta

import pytest

from pomerium_agent.authenticate import Site, cookies
from pomerium_agent.config.login import Login, SameSite
from pomerium_agent.errors import NotBelieved
from tests.unit.authenticate.stage import KEY

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def test_a_session_cookie_as_nobody_configured_it() -> None:
    """No Domain, no SameSite, no Max-Age."""
    assert cookies.session_cookie(Site(shared_key=KEY), "_pomerium", "jwt", NOW) == (
        "_pomerium=jwt; Path=/; Expires=Tue, 01 Jan 2030 14:00:00 GMT; HttpOnly; Secure"
    )


@pytest.mark.parametrize("same_site", list(SameSite))
def test_a_session_cookie_as_it_is_configured(same_site: SameSite) -> None:
    login = Login(
        cookie_domain="example.com",
        cookie_http_only=False,
        cookie_expire=timedelta(minutes=5),
        cookie_same_site=same_site,
    )
    end = f"; SameSite={same_site.value}" if same_site.value else ""

    assert cookies.session_cookie(Site(login=login), "_x", "jwt", NOW) == (
        f"_x=jwt; Path=/; Domain=example.com; Expires=Tue, 01 Jan 2030 00:05:00 GMT; Secure{end}"
    )
    assert cookies.clear_session_cookie(Site(login=login), "_x", NOW) == (
        f"_x=; Path=/; Domain=example.com; Expires=Mon, 31 Dec 2029 23:00:00 GMT; Max-Age=0; Secure{end}"
    )


def test_what_no_browser_would_keep_is_not_sent() -> None:
    with pytest.raises(NotBelieved):
        cookies.session_cookie(Site(), "_pomerium", "x" * 4096, NOW)


@pytest.mark.parametrize(
    ("configured", "posts", "same_site"),
    [
        (SameSite.UNSET, False, "Lax"),
        (SameSite.STRICT, False, "Lax"),
        (SameSite.LAX, False, "Lax"),
        (SameSite.NONE, False, "None"),
        (SameSite.STRICT, True, "None"),
    ],
)
def test_cookies_of_a_login_come_back_from_the_provider(configured: SameSite, *, posts: bool, same_site: str) -> None:
    site = Site(cookie_name="_x", login=Login(cookie_same_site=configured, cookie_domain="example.com"))

    assert cookies.csrf_cookie(site, "v", cross_site_post=posts) == (
        f"__Host-_x_csrf=v; Path=/; Max-Age=43200; HttpOnly; Secure; SameSite={same_site}"
    )
    assert cookies.pkce_cookie(site, cookies.pkce_cookie_name(site, "d"), "v", cross_site_post=posts) == (
        f"_x_pkce_d=v; Path=/oauth2/callback; Max-Age=300; HttpOnly; Secure; SameSite={same_site}"
    )
