"""Where a login may send a browser: hosts of this cluster, and for programs the hosts of an allow-list (N-41, N-42)."""

import ipaddress
import re
from urllib.parse import urlsplit, urlunsplit

from pomerium_agent.authenticate.site import Site
from pomerium_agent.config.login import LOCALHOST
from pomerium_agent.errors import HandoffRejected
from pomerium_agent.handoff.nonce import CALLBACK_PATH
from pomerium_agent.handoff.query import encode_query, parse_query
from pomerium_agent.handoff.signed import origin_of

# Nothing that a browser reads in another way than we do: no backslash, no user, no escape.
AUTHORITY = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
MAX_URL = 16_384
JWT = b"pomerium_jwt"


def check_page(site: Site, url: str) -> None:
    """Raises HandoffRejected unless it is a page of this cluster, over TLS."""
    _check_form(url)
    parts = urlsplit(url)
    if parts.scheme != "https" or not site.serves(parts.netloc):
        raise HandoffRejected("it leads to a host that is not of this cluster")


def check_callback(site: Site, url: str) -> None:
    """Raises HandoffRejected unless it is the callback on a host of this cluster: no upstream ever sees it."""
    check_page(site, url)
    if urlsplit(url).path != CALLBACK_PATH:
        raise HandoffRejected("it returns to something that is no callback")


def check_program(site: Site, url: str) -> None:
    """Raises HandoffRejected unless the host of a program's own URL is on the list (authenticate 8.6)."""
    _check_form(url)
    if not _listed(urlsplit(url).hostname or "", site.login.programmatic_domains):
        raise HandoffRejected("pomerium_redirect_uri has a host that is not in programmatic_redirect_domain_whitelist")


def check_redirect(site: Site, url: str, *, programmatic: bool) -> None:
    """The end of a login: of a program's, too, it may be a page of this cluster."""
    if programmatic:
        try:
            check_program(site, url)
        except HandoffRejected:
            check_page(site, url)
    else:
        check_page(site, url)


def with_jwt(url: str, token: str) -> str:
    """The URL of a program, with the session handle in its query (G-13)."""
    parts = urlsplit(url)
    pairs = [pair for pair in parse_query(parts.query) if pair[0] != JWT]
    return urlunsplit(parts._replace(query=encode_query([*pairs, (JWT, token.encode())])))


def hostname_of(url: str) -> str:
    """Empty when it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _check_form(url: str) -> None:
    if len(url) > MAX_URL or not (url.isascii() and url.isprintable()) or " " in url:
        raise HandoffRejected("a parameter is not an absolute URL")
    origin_of(url)
    if not AUTHORITY.fullmatch(urlsplit(url).netloc):
        raise HandoffRejected("a parameter is not an absolute URL")


def _listed(host: str, domains: tuple[str, ...]) -> bool:
    if host.lower() in {domain.lower() for domain in domains}:
        return True
    if LOCALHOST not in domains:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
