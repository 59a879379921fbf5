"""What anybody may read of us below `/.well-known/pomerium`: this host, and our public keys (authenticate 2.1)."""

import hashlib
import json
from collections.abc import Mapping

from aiohttp import hdrs, web

from pomerium_agent.authenticate.cookies import CALLBACK_PATH
from pomerium_agent.authenticate.server_key import PATH as HPKE_KEY
from pomerium_agent.authenticate.site import Site
from pomerium_agent.handoff.hpke import public_bytes
from pomerium_agent.handoff.keys import etag_of, hpke_key
from pomerium_agent.runtime.latest import Latest

WELL_KNOWN = "/.well-known/pomerium"
JWKS = f"{WELL_KNOWN}/jwks.json"
OPEN_TO_ALL = {"Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff"}


def add_documents(app: web.Application, keys: Latest[tuple[Mapping[str, str], ...]], site: Latest[Site] | None) -> None:
    """`keys` sign assertions. Without a `site` nobody logs in, and nothing about logging in is said."""

    async def jwks(request: web.Request) -> web.Response:
        body = json.dumps({"keys": keys.value}).encode()
        return _document(request, body, hashlib.sha256(body).hexdigest()[:32], "application/json")

    async def hpke(request: web.Request) -> web.Response:
        """The 32 bytes as they are (N-10)."""
        if site is None or not site.value.shared_key:
            raise web.HTTPNotFound
        body = public_bytes(hpke_key(site.value.shared_key))
        return _document(request, body, etag_of(body), "application/octet-stream")

    async def discovery(request: web.Request) -> web.Response:
        said = _discovery(request.host, site.value if site is not None else None)
        headers = {hdrs.CONTENT_TYPE: "application/json", **OPEN_TO_ALL}
        return web.Response(body=json.dumps(said).encode(), headers=headers)

    app.router.add_get(JWKS, jwks)
    app.router.add_get(HPKE_KEY, hpke)
    app.router.add_get(WELL_KNOWN, discovery)
    app.router.add_get(f"{WELL_KNOWN}/", discovery)


def _discovery(host: str, site: Site | None) -> dict[str, str]:
    """Who this host is, for those who verify its assertions (authorize 14) and register its login."""
    said = {"issuer": f"https://{host}/", "jwks_uri": f"https://{host}{JWKS}"}
    if site is None:
        return said
    return {
        **said,
        "authentication_callback_endpoint": f"{site.login.authenticate_url}{CALLBACK_PATH}",
        "frontchannel_logout_uri": f"https://{host}/.pomerium/sign_out",
    }


def _document(request: web.Request, body: bytes, etag: str, content_type: str) -> web.Response:
    """A document that seldom changes, with what caches need to know.

    The reachability check wants the content type to the letter (zero link 16.1), so there is no charset.
    """
    known = request.if_none_match or ()
    if any(tag.value in (etag, "*") for tag in known):
        response = web.Response(status=304, headers=OPEN_TO_ALL)
    else:
        response = web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type, **OPEN_TO_ALL})
    response.etag = etag
    response.headers[hdrs.CACHE_CONTROL] = "max-age=60"
    return response
