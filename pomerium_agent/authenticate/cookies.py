"""The cookies of logins: what they are called, and what a browser may do with them (authenticate 3.8, N-26). Pure."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from pomerium_agent.authenticate.site import Site
from pomerium_agent.config.login import SameSite
from pomerium_agent.errors import NotBelieved

MAX_COOKIE = 4096  # bytes of name, value and attributes: browsers drop what is larger without a word
CSRF_SECONDS = 43_200
PKCE_SECONDS = 300
SIGNED_OUT_SECONDS = 300
CALLBACK_PATH = "/oauth2/callback"


def session_cookie(site: Site, name: str, handle: str, now: datetime) -> str:
    """The Set-Cookie header that carries a session handle. Raises NotBelieved when no browser would keep it."""
    login = site.login
    cookie = _cookie(
        name,
        handle,
        domain=login.cookie_domain,
        expires=now + login.cookie_expire,
        http_only=login.cookie_http_only,
        same_site=login.cookie_same_site,
    )
    if len(cookie) > MAX_COOKIE:
        raise NotBelieved("the session cookie would be larger than browsers allow: the user id is too long")
    return cookie


def clear_session_cookie(site: Site, name: str, now: datetime) -> str:
    """The same attributes, no value, and over."""
    login = site.login
    return _cookie(
        name,
        "",
        domain=login.cookie_domain,
        expires=now - timedelta(hours=1),
        max_age=0,
        http_only=login.cookie_http_only,
        same_site=login.cookie_same_site,
    )


def authenticate_cookie_name(site: Site) -> str:
    """Of the session on the authenticate host, which other hosts' logins are taken from."""
    return f"{site.cookie_name}_authenticate"


def csrf_cookie_name(site: Site) -> str:
    """`__Host-`: no neighbour can plant one."""
    return f"__Host-{site.cookie_name}_csrf"


def csrf_cookie(site: Site, value: str, *, cross_site_post: bool) -> str:
    return _cookie(
        csrf_cookie_name(site), value, max_age=CSRF_SECONDS, same_site=_returning(site, cross_site_post=cross_site_post)
    )


def pkce_cookie_name(site: Site, digest: str) -> str:
    """One for each login that is under way, so that several in one browser do not meet (N-22)."""
    return f"{site.cookie_name}_pkce_{digest}"


def pkce_cookie(site: Site, name: str, value: str, *, cross_site_post: bool) -> str:
    return _cookie(
        name,
        value,
        path=CALLBACK_PATH,
        max_age=PKCE_SECONDS,
        same_site=_returning(site, cross_site_post=cross_site_post),
    )


def clear_pkce_cookie(name: str, now: datetime) -> str:
    return _cookie(name, "", path=CALLBACK_PATH, expires=now - timedelta(hours=1), max_age=0)


def signed_out_cookie_name(site: Site) -> str:
    """Where to go on after a provider that always returns to the same page (authenticate 3.8)."""
    return f"{site.cookie_name}_signed_out_redirect_uri"


def signed_out_cookie(site: Site, url: str) -> str:
    return _cookie(signed_out_cookie_name(site), url, max_age=SIGNED_OUT_SECONDS, same_site=SameSite.LAX)


def clear_signed_out_cookie(site: Site, now: datetime) -> str:
    return _cookie(
        signed_out_cookie_name(site), "", expires=now - timedelta(hours=1), max_age=0, same_site=SameSite.LAX
    )


def _returning(site: Site, *, cross_site_post: bool) -> SameSite:
    """What a browser brings when it comes back from the provider: Strict would be lost, and Lax from a form."""
    if cross_site_post or site.login.cookie_same_site is SameSite.NONE:
        return SameSite.NONE
    return SameSite.LAX


def _cookie(
    name: str,
    value: str,
    *,
    path: str = "/",
    domain: str = "",
    expires: datetime | None = None,
    max_age: int | None = None,
    http_only: bool = True,
    same_site: SameSite = SameSite.UNSET,
) -> str:
    parts = [f"{name}={value}", f"Path={path}"]
    if domain:
        parts.append(f"Domain={domain}")
    if expires is not None:
        parts.append(f"Expires={format_datetime(expires.astimezone(UTC), usegmt=True)}")
    if max_age is not None:
        parts.append(f"Max-Age={max_age}")
    if http_only:
        parts.append("HttpOnly")
    parts.append("Secure")
    if same_site is not SameSite.UNSET:
        parts.append(f"SameSite={same_site.value}")
    return "; ".join(parts)
