"""What goes with a page on the wire, so that a browser holds it to what it is (authenticate.md 2.3)."""

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from pomerium_agent.look.script import SCRIPT_HASH

_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)


def security_headers(*, form_action: Sequence[str] = (), personal: bool = True) -> dict[str, str]:
    """The headers of one of our pages.

    `form_action` are the URLs to which answers to its forms may redirect: Chromium asks the policy for each of them,
    not only for the form's own address. Of each the origin counts; what has none is left out.
    `personal` pages are kept nowhere (N-43).
    """
    targets = dict.fromkeys(("'self'", *filter(None, map(_origin, form_action))))
    policy = (
        "default-src 'none'",
        f"script-src 'sha256-{SCRIPT_HASH}'",
        "style-src 'unsafe-inline'",
        "img-src 'self' https: http: data:",
        f"form-action {' '.join(targets)}",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
    return {
        "Content-Security-Policy": "; ".join(policy),
        # not no-referrer: under it browsers send `Origin: null` with our own forms, and the check of origins fails
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Cache-Control": "no-store" if personal else "no-cache, must-revalidate",
    }


def _origin(url: str) -> str:
    """Scheme, host and port as a policy names them; empty when it cannot name them (an IPv6 address, say)."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host):
        return ""
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")
