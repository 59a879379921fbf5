"""What a browser gets: a redirect, or a page that says what went wrong and what to do (authenticate 2.3)."""

from dataclasses import replace

import structlog
from aiohttp import hdrs, web

from pomerium_agent.authenticate.visit import Visit
from pomerium_agent.config.login import SameSite
from pomerium_agent.errors import (
    AgentError,
    DatabrokerUnavailable,
    GrantEnded,
    HandoffExpired,
    HandoffRejected,
    HandoffStrayed,
    HandoffUsed,
    NotBelieved,
    ProviderUnavailable,
    SettingsError,
)
from pomerium_agent.look import (
    Action,
    Icon,
    Message,
    Trouble,
    read_branding,
    render_message,
    security_headers,
    sign_in_trouble,
)

log = structlog.get_logger(__name__)

INTERCEPTED = {"x-pomerium-intercepted-response": "true"}
RETRY_SECONDS = 5


def redirect(url: str, *cookies: str, status: int = 302) -> web.Response:
    """302 unless it is for good. What is in the URL is nobody else's business, and nothing of it is kept."""
    headers = {hdrs.LOCATION: url, "Referrer-Policy": "no-referrer", hdrs.CACHE_CONTROL: "no-store", **INTERCEPTED}
    return with_cookies(web.Response(status=status, headers=headers), cookies)


def signed_in(visit: Visit, url: str, *cookies: str) -> web.Response:
    """On to `url`, where the cookies that are set here must arrive.

    Browsers do not send Strict cookies along redirects that began at another site, which a login does, so the browser
    would be sent to log in for ever. With those, a page of this site sends it on.
    """
    if visit.site.login.cookie_same_site is not SameSite.STRICT:
        return redirect(url, *cookies)
    return onward(visit, url, "You are signed in", *cookies)


def onward(visit: Visit, url: str, title: str, *cookies: str) -> web.Response:
    """A page that goes on to `url` by itself.

    Where a redirect would not do: Chromium holds the answers to a form to the policy of its page, with every redirect
    that follows, and where a sign-out leads in the end only the provider knows.
    """
    message = Message(
        title=title,
        text="If nothing happens, please go on by yourself.",
        icon=Icon.CHECK,
        primary=Action("Continue", url),
    )
    response = page(visit, 200, message)
    response.headers["Refresh"] = f"0;url={url}"
    return with_cookies(response, cookies)


def with_cookies(response: web.Response, cookies: tuple[str, ...] | list[str]) -> web.Response:
    for cookie in cookies:
        response.headers.add(hdrs.SET_COOKIE, cookie)
    return response


def problem(visit: Visit, status: int, message: Message) -> web.Response:
    """A page, or JSON for whoever accepts nothing else."""
    if not visit.wants_json:
        return page(visit, status, message)
    said = {"Status": status, "description": " ".join(filter(None, (message.title, *(v for _, v in message.details))))}
    if visit.request_id:
        said["RequestID"] = visit.request_id
    return web.json_response(said, status=status, headers={hdrs.CACHE_CONTROL: "no-store", **INTERCEPTED})


def refuse(visit: Visit, error: AgentError) -> web.Response:
    """The answer to what went wrong. Of our own trouble the visitor is told no details; the log has them (N-33)."""
    status, message = _judge(error)
    tell = log.warning if status >= 500 or isinstance(error, NotBelieved) else log.info  # what is 400 anybody can send
    tell(
        "login page refused",
        reason=str(error),
        kind=type(error).__name__,
        status=status,
        host=visit.host,
        path=visit.path,
        request_id=visit.request_id,
    )
    if status < 500 or isinstance(error, ProviderUnavailable):
        message = replace(message, details=(("Reason", str(error)),))
    if visit.retry:
        label = "Try again" if status >= 500 else "Sign in again"
        message = replace(message, primary=Action(label, visit.retry))
    response = problem(visit, status, message)
    if status == 503:
        response.headers[hdrs.RETRY_AFTER] = str(RETRY_SECONDS)
    return response


def _judge(error: AgentError) -> tuple[int, Message]:
    if isinstance(error, HandoffExpired):
        return 400, sign_in_trouble(Trouble.EXPIRED_LINK)
    if isinstance(error, HandoffUsed | GrantEnded):
        return 400, sign_in_trouble(Trouble.REPLAY)
    if isinstance(error, HandoffStrayed):
        return 400, sign_in_trouble(Trouble.COOKIE_BLOCKED)
    if isinstance(error, HandoffRejected):
        return 400, NOT_ACCEPTED
    if isinstance(error, NotBelieved):
        return 401, NOT_BELIEVED
    if isinstance(error, ProviderUnavailable):
        return 503, sign_in_trouble(Trouble.UNREACHABLE)
    if isinstance(error, DatabrokerUnavailable):
        return 500, NOT_KEPT
    if isinstance(error, SettingsError):
        return 500, NOT_CONFIGURED
    return 500, sign_in_trouble(Trouble.FAILED)


NOT_ACCEPTED = Message(
    title="This link cannot be accepted",
    text="It was changed on its way, or it does not belong to a sign-in of this site. Nobody was signed in.",
    icon=Icon.WARNING,
    steps=(
        "Open the page that you wanted once more, and sign in from there.",
        "If this happens again, tell whoever runs this site, with the request id below.",
    ),
)
NOT_BELIEVED = Message(
    title="The answer of the identity provider was not accepted",
    text="It does not hold what it must, so nobody was signed in.",
    icon=Icon.REFUSED,
    steps=(
        "Start again from the page that you wanted.",
        "If this happens again, tell whoever runs this site, with the request id below.",
    ),
)
NOT_KEPT = Message(
    title="Your session could not be kept",
    text="You were not signed in, since the place where sessions are kept does not answer. "
    "This is usually over in a minute.",
    icon=Icon.CLOUD,
)
NOT_CONFIGURED = Message(
    title="Signing in is not set up correctly",
    text="Whoever runs this site has to correct its settings; what is wrong has been written to its log.",
    icon=Icon.WARNING,
)


def page(visit: Visit, status: int, message: Message) -> web.Response:
    """The page in the look of the organisation."""
    message = replace(message, request_id=visit.request_id, branding=read_branding(visit.site.branding))
    return html(status, render_message(message))


def html(status: int, text: str) -> web.Response:
    """A page of ours, which nobody keeps."""
    headers = {**security_headers(), **INTERCEPTED}
    return web.Response(status=status, text=text, content_type="text/html", headers=headers)
