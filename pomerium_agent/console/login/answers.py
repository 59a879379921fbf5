"""What the login answers with: pages, redirects, cookies, and refusals with their reasons."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import structlog
from aiohttp import hdrs, web

from pomerium_agent.console.login.desk import Asked
from pomerium_agent.look import Action, Icon, Message, Trouble, render_message, security_headers, sign_in_trouble

log = structlog.get_logger(__name__)

SESSION_COOKIE = "__Host-pomerium_console_session"
BROWSER_COOKIE = "__Host-pomerium_console_browser"  # ties a round trip to the browser that began it
AFTER_COOKIE = "__Host-pomerium_console_after"  # where a browser wants to go that is being signed out
INTERCEPTED = {"x-pomerium-intercepted-response": "true"}
CORS = {"Access-Control-Allow-Origin": "*"}


@dataclass(frozen=True, slots=True)
class Refusal(Exception):
    """An answer that is not the one asked for. `why` goes to the log; the visitor sees the message."""

    status: int
    message: Message
    why: str
    facts: Mapping[str, object] = field(default_factory=dict)


def refuse(
    status: int, title: str, text: str, *, why: str = "", steps: tuple[str, ...] = (), **facts: object
) -> Refusal:
    """A refusal in words of its own."""
    icon = Icon.REFUSED if status == 403 else Icon.WARNING
    return Refusal(status, Message(title=title, text=text, icon=icon, steps=steps), why or text, facts)


def trouble(status: int, what: Trouble, *, why: str, **facts: object) -> Refusal:
    """A refusal that has a page already."""
    return Refusal(status, sign_in_trouble(what), why, facts)


def refusal_response(asked: Asked, refusal: Refusal) -> web.Response:
    """As a page, or as JSON for who wants exactly that (authenticate 2.3)."""
    tell, what = (log.info, "sign in refused") if refusal.status < 500 else (log.warning, "sign in failed")
    tell(
        what,
        status=refusal.status,
        reason=refusal.why,
        path=asked.path,
        ip=asked.address,
        request_id=asked.id,
        **refusal.facts,
    )
    if asked.wants_json:
        said = {"Status": refusal.status, "description": refusal.message.title, "RequestID": asked.id}
        return web.json_response(said, status=refusal.status, headers={**INTERCEPTED, hdrs.CACHE_CONTROL: "no-store"})
    message = refusal.message
    shown = Message(title=message.title, text=message.text, icon=message.icon, steps=message.steps, request_id=asked.id)
    return page(render_message(shown), status=refusal.status, headers=INTERCEPTED)


def page(
    text: str, *, status: int = 200, form_action: tuple[str, ...] = (), headers: Mapping[str, str] | None = None
) -> web.Response:
    """One of our pages. Answers to its forms may redirect to `form_action`."""
    given = {**security_headers(form_action=form_action), **(headers or {})}
    return web.Response(status=status, text=text, content_type="text/html", charset="utf-8", headers=given)


def redirect(url: str, *, cookies: Iterable[str] = ()) -> web.Response:
    response = web.Response(status=302, headers={hdrs.LOCATION: url, hdrs.CACHE_CONTROL: "no-store", **INTERCEPTED})
    for cookie in cookies:
        response.headers.add(hdrs.SET_COOKIE, cookie)
    return response


def lead_on(asked: Asked, url: str, *, cookies: Iterable[str] = ()) -> web.Response:
    """A redirect; after a form of ours, a page that goes there by itself.

    Chromium holds every redirect that follows a form to the `form-action` of the form's page, and clusters lead on to
    hosts that we cannot name beforehand.
    """
    if asked.request.method != "POST":
        return redirect(url, cookies=cookies)
    message = Message(
        title="One moment", text="You are being taken there.", icon=Icon.CHECK, primary=Action("Go on", url)
    )
    response = page(render_message(message), headers={"Refresh": f"0;url={url}"})
    for cookie in cookies:
        response.headers.add(hdrs.SET_COOKIE, cookie)
    return response


def set_cookie(name: str, value: str, *, seconds: int, cross_site_post: bool = False) -> str:
    """A Set-Cookie header. Lax, since browsers come from the clusters' sites; only a provider's form needs None."""
    same_site = "None" if cross_site_post else "Lax"
    return f"{name}={value}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite={same_site}"


def clear_cookie(name: str) -> str:
    return set_cookie(name, "", seconds=0)
