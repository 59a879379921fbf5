"""The sample upstream of the demo: greets whoever comes by name, and shows what it saw of the request."""

import json
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from pomerium_agent.demo.playground import visitor
from pomerium_agent.look import Action, Icon, Message, render_message, security_headers
from pomerium_agent.sessions.assertion import ASSERTION

JWKS = "/.well-known/pomerium/jwks.json"
SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Verified:
    """What the assertion says, once it is verified; else why it is not."""

    claims: Mapping[str, Any]
    failure: str = ""


@dataclass(slots=True, kw_only=True)
class Upstream:
    """Where it listens, and how it checks assertions: `ca_file` and `entrance` (a port) are filled in by the demo."""

    port: int
    ca_file: Path | None = None
    entrance: int = 0


@asynccontextmanager
async def serve_upstream() -> AsyncIterator[Upstream]:
    """Serve on a free loopback port."""
    sock = socket.create_server(("127.0.0.1", 0))
    upstream = Upstream(port=sock.getsockname()[1])

    async def answer(request: web.Request) -> web.Response:
        return await _answer(request, upstream)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
        yield upstream
    finally:
        await runner.cleanup()


async def _answer(request: web.Request, upstream: Upstream) -> web.Response:
    """JSON, so that one can see what the proxy did to the request; for a browser, a page that says the same."""
    assertion = request.headers.get(ASSERTION, "")
    # What visitors call us, not what the proxy does; the last one is the proxy's word, any before it the visitor's.
    host = request.headers.get("x-forwarded-host", request.host).rpartition(",")[2].strip()
    verified = await _verify(assertion, host, upstream) if assertion and upstream.ca_file else None
    if "text/html" in request.headers.get(hdrs.ACCEPT, ""):
        page = render_message(_greeting(request, verified))
        return web.Response(text=page, content_type="text/html", headers=security_headers())
    said: dict[str, object] = {
        "message": "hello from the upstream",
        "method": request.method,
        "path": request.path_qs,
        "headers": {name.lower(): value for name, value in request.headers.items()},
    }
    if verified is not None:
        said["assertion"] = {"verified": not verified.failure, "claims": dict(verified.claims)}
    return web.json_response(said)


def _greeting(request: web.Request, verified: Verified | None) -> Message:
    facts = [("Request", f"{request.method} {request.path_qs}")]
    if verified is None:
        return Message(
            title="Hello, whoever you are",
            text="The upstream speaking. Nobody told me who you are: this route is open to everyone.",
            icon=Icon.PERSON,
            details=tuple(facts),
        )
    if verified.failure:
        return Message(
            title="I do not believe who you are",
            text=f"The assertion that came with this request is not good: {verified.failure}.",
            icon=Icon.REFUSED,
            details=tuple(facts),
        )
    claims = verified.claims
    facts += [(name, json.dumps(value)) for name, value in sorted(claims.items())]
    facts += [(name, value) for name, value in request.headers.items() if name.lower().startswith("x-pomerium-claim")]
    return Message(
        title=f"Hello, {claims.get('name') or claims.get('email') or claims.get('sub')}!",
        text="The upstream speaking. I know you from a signed assertion, which I verified with the proxy's public key.",
        icon=Icon.CHECK,
        primary=Action("Your account", "/.pomerium/"),
        secondary=Action("Your applications", "/.pomerium/routes"),
        details=tuple(facts),
    )


async def _verify(assertion: str, host: str, upstream: Upstream) -> Verified:
    """As any upstream should: by the keys of the host it is behind, signature, audience, issuer and time."""
    name = host.partition(":")[0]
    try:
        async with (
            visitor(upstream.ca_file) as client,
            client.get(f"https://{name}:{upstream.entrance}{JWKS}", timeout=aiohttp.ClientTimeout(SECONDS)) as answer,
        ):
            keys = KeySet.import_key_set(await answer.json(content_type=None))
        token = jwt.decode(assertion, keys, algorithms=["ES256"])
        jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": name}, aud={"essential": True, "value": name}, exp={"essential": True}
        ).validate(token.claims)
    except (aiohttp.ClientError, TimeoutError) as error:
        return Verified({}, f"the keys of {name} cannot be had ({type(error).__name__})")
    except (JoseError, ValueError) as error:
        return Verified({}, f"it does not verify ({type(error).__name__})")
    return Verified(token.claims)
