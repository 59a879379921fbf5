"""The pages that tell a visitor who they are to us: `/.pomerium/`, `/.pomerium/user`, `/.pomerium/jwt` (8.3, N-43)."""

import base64
import binascii
import json
from datetime import UTC, datetime
from typing import Any

from aiohttp import hdrs, web

from pomerium_agent.authenticate.answers import INTERCEPTED, html, page
from pomerium_agent.authenticate.desk import Desk
from pomerium_agent.authenticate.visit import Visit
from pomerium_agent.authenticate.visitor import Visitor, find_visitor
from pomerium_agent.config.login import Login
from pomerium_agent.look import (
    Account,
    Action,
    Bar,
    Device,
    Form,
    Icon,
    Message,
    SessionFacts,
    read_branding,
    render_account,
)
from pomerium_agent.sessions.assertion import ASSERTION
from pomerium_agent.sessions.claims import overlay, text

ACCOUNT, PORTAL, SIGN_OUT, USER = "/.pomerium/", "/.pomerium/routes", "/.pomerium/sign_out", "/.pomerium/user"
OURS = ("iss", "aud", "exp", "iat", "jti")  # of the assertion, and nothing about the visitor
FAR = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


def bar_of(visit: Visit, login: Login) -> Bar:
    """What stands on top of the pages of somebody who is signed in."""
    return Bar(
        site=visit.hostname,
        portal_url=PORTAL if login.portal and not visit.on_authenticate_host else "",
        account_url=ACCOUNT,
        sign_out=Form(SIGN_OUT),
    )


async def show_account(desk: Desk, visit: Visit) -> web.Response:
    """Who the visitor is, or that they are nobody. Raises DatabrokerUnavailable."""
    visitor = await find_visitor(visit, desk)
    if visitor is None:
        return page(visit, 200, _stranger(visit))
    return html(200, render_account(_account(visit, desk, visitor)))


async def show_user(_desk: Desk, visit: Visit) -> web.Response:
    """The claims of the assertion, which authorization put on the request; 404 without a visitor (8.3)."""
    claims = {name: value for name, value in _assertion(visit).items() if name not in OURS}
    if not claims.get("sub"):
        raise web.HTTPNotFound
    return web.json_response(claims, headers={hdrs.CACHE_CONTROL: "no-store", **INTERCEPTED})


async def show_assertion(_desk: Desk, visit: Visit) -> web.Response:
    """The assertion itself, where the flag `pomerium_jwt_endpoint` allows it."""
    raw = visit.request.headers.get(ASSERTION, "")
    if not visit.site.login.assertion_endpoint or not _assertion(visit).get("sub"):
        raise web.HTTPNotFound
    return web.Response(
        body=raw.encode(),
        headers={hdrs.CONTENT_TYPE: "application/jwt", hdrs.CACHE_CONTROL: "no-store", **INTERCEPTED},
    )


def _assertion(visit: Visit) -> dict[str, Any]:
    """Nothing is verified here: on these paths it is always authorization that wrote it, over whatever was there."""
    part = visit.request.headers.get(ASSERTION, "").split(".")[1:2]
    try:
        found = json.loads(base64.urlsafe_b64decode(part[0] + "=" * (-len(part[0]) % 4))) if part else {}
    except (ValueError, binascii.Error, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def sign_in_page(visit: Visit) -> str:
    """A page of a route's host that only somebody signed in may see: authorization sends them to sign in, and back."""
    return "" if visit.on_authenticate_host else PORTAL if visit.site.login.portal else USER


def _stranger(visit: Visit) -> Message:
    sign_in = sign_in_page(visit)
    return Message(
        title="You are not signed in",
        text="Nobody is signed in here with this browser.",
        icon=Icon.PERSON,
        primary=Action("Sign in", sign_in) if sign_in else None,
    )


def _account(visit: Visit, desk: Desk, visitor: Visitor) -> Account:
    """Of whom the session stands for, if it stands for somebody else (8.3)."""
    now, (handle, resolved) = desk.clock.now(), visitor
    claims = overlay(resolved.session_claims, resolved.user_claims)
    user = desk.sessions.user(resolved.user_id)
    directory = desk.sessions.directory_user(resolved.user_id)
    name = (directory.display_name if directory is not None else "") or (user.name if user is not None else "")
    groups = directory.group_ids if directory is not None else tuple(map(text, claims.get("groups", ())))
    provider = visit.site.providers.get(handle.idp_id)
    return Account(
        now=now,
        name=name or text(next(iter(claims.get("name", ())), "")),
        email=resolved.email,
        user_id=resolved.user_id,
        session=SessionFacts(
            id=resolved.session_id,
            provider=(provider.type or "hosted") if provider is not None else "",
            since=datetime.fromtimestamp(handle.issued_at, UTC) if handle.issued_at is not None else None,
            expires=datetime.fromtimestamp(resolved.valid_until, UTC) if resolved.valid_until < FAR else None,
        ),
        claims=[(name, [text(value) for value in values]) for name, values in sorted(claims.items())],
        groups=[resolved.group_names.get(group) or group for group in groups],
        devices=[Device(id=device.id, kind=device.type_id) for device in resolved.identity.devices if device.id],
        impersonated=resolved.impersonated is not None,
        bar=bar_of(visit, visit.site.login),
        branding=read_branding(visit.site.branding),
    )
