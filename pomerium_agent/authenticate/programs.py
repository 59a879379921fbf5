"""Logging a program in: it asks for a URL that somebody opens, and waits for the answer (authenticate 8.6, N-42)."""

import platform
import uuid

from aiohttp import hdrs, web

from pomerium_agent.authenticate.answers import INTERCEPTED
from pomerium_agent.authenticate.desk import Desk
from pomerium_agent.authenticate.targets import check_program
from pomerium_agent.authenticate.visit import Visit
from pomerium_agent.config.login import Flow
from pomerium_agent.handoff.nonce import CALLBACK_PATH
from pomerium_agent.handoff.sign_in import REDIRECT_URI, SignIn, stateful_url, stateless_url
from pomerium_agent.runtime.version import full_version


async def program_login(desk: Desk, visit: Visit) -> web.Response:
    """The sign-in URL, as text. Without the parameter there is nothing here (404)."""
    target = visit.parameters.get(REDIRECT_URI)
    if target is None:
        raise web.HTTPNotFound
    check_program(visit.site, target)
    site, now = visit.site, desk.clock.now()
    asked = SignIn(
        redirect_uri=target,
        idp_id=site.provider_on(visit.hostname).id,
        callback_uri=f"https://{visit.host}{CALLBACK_PATH}",
        programmatic=True,
    )
    if site.login.flow is Flow.STATEFUL:
        url = stateful_url(site.login.authenticate_url, asked, shared_secret=site.shared_key, now=now)
    else:
        url = stateless_url(
            site.login.authenticate_url,
            asked,
            shared_secret=site.shared_key,
            server_key=await desk.server_key.current(),
            now=now,
            version=f"{full_version()} {platform.system().lower()}/{platform.machine()} ",
            request_uuid=str(uuid.uuid4()),
        )
    return web.Response(text=url, headers={hdrs.CACHE_CONTROL: "no-store", **INTERCEPTED})
