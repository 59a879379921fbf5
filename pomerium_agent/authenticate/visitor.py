"""Who looks at a page of ours: the session that their browser carries, as the live view knows it."""

from collections.abc import Iterator
from typing import NamedTuple

from pomerium_agent.authenticate.cookies import authenticate_cookie_name
from pomerium_agent.authenticate.desk import Desk
from pomerium_agent.authenticate.visit import Visit
from pomerium_agent.sessions.handle import Handle, parse_handle
from pomerium_agent.sessions.identity import Resolved, resolve


class Visitor(NamedTuple):
    """Who it is, and the handle that says so."""

    handle: Handle
    resolved: Resolved


async def find_visitor(visit: Visit, desk: Desk) -> Visitor | None:
    """None for a stranger. Raises DatabrokerUnavailable when it cannot be found out (N-30).

    On the authenticate host that is the session from which other hosts are logged in. On any other it is whoever
    authorization takes them for: the session of the host's provider (A-6), or a service account, by cookie or, as
    programs have it, by header or query.
    """
    site, at_home = visit.site, visit.on_authenticate_host
    own_idp = site.provider_on(visit.hostname).id
    for handle in (*cookie_handles(visit), *(() if at_home else _read(visit, visit.carried_handles))):
        if not at_home and handle.idp_id not in ("", own_idp):
            continue
        if not desk.sessions.is_ready_for(handle):
            await desk.sessions.ready_for(handle)
        resolved = resolve(desk.sessions, handle, desk.clock.now(), handle_lifetime=site.login.cookie_expire)
        if resolved is not None and not (at_home and resolved.service_account):
            return Visitor(handle, resolved)
    return None


def cookie_handles(visit: Visit) -> tuple[Handle, ...]:
    """The handles that the browser keeps for this host, whosever provider's they are, and whether they still count."""
    site = visit.site
    names = (authenticate_cookie_name(site), site.cookie_name) if visit.on_authenticate_host else (site.cookie_name,)
    found = _read(visit, [value for name in names for value in visit.cookies(name)])
    return tuple({handle.id: handle for handle in found}.values())


def _read(visit: Visit, tokens: list[str]) -> Iterator[Handle]:
    keys = (visit.site.shared_key,) if visit.site.shared_key else ()
    for token in tokens:
        handle = parse_handle(token, keys)
        if handle is not None:
            yield handle
