"""Who looks at a page of ours: the session that their browser carries, as the live view knows it."""

from typing import NamedTuple

from pomerium_agent.authenticate.cookies import authenticate_cookie_name
from pomerium_agent.authenticate.desk import Desk
from pomerium_agent.authenticate.visit import Visit
from pomerium_agent.sessions.handle import Handle, parse_handle
from pomerium_agent.sessions.identity import Resolved, resolve


class Visitor(NamedTuple):
    """`handle` is what the cookie says, `resolved` who that is; a handle may lead to nobody any more."""

    handle: Handle | None = None
    resolved: Resolved | None = None


NOBODY = Visitor()


async def find_visitor(visit: Visit, desk: Desk) -> Visitor:
    """By the cookie of this host. Raises DatabrokerUnavailable when it cannot be found out (N-30).

    On the authenticate host that is the session from which other hosts are logged in; on any other, the session of
    its provider (A-6). A handle of somebody who is gone is returned too, so that its cookie can be taken away.
    """
    site = visit.site
    at_home = visit.on_authenticate_host
    names = (authenticate_cookie_name(site), site.cookie_name) if at_home else (site.cookie_name,)
    known = NOBODY
    for name in names:
        for value in visit.cookies(name):
            handle = parse_handle(value, (site.shared_key,)) if site.shared_key else None
            if handle is None or (not at_home and not _counts(handle, visit)):
                continue
            if not desk.sessions.is_ready_for(handle):
                await desk.sessions.ready_for(handle)
            resolved = resolve(desk.sessions, handle, desk.clock.now(), handle_lifetime=site.login.cookie_expire)
            if resolved is not None and not resolved.service_account:
                return Visitor(handle, resolved)
            known = known if known.handle is not None else Visitor(handle)
    return known


def _counts(handle: Handle, visit: Visit) -> bool:
    return not handle.idp_id or handle.idp_id == visit.site.provider_on(visit.hostname).id
