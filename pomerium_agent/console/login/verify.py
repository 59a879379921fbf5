"""`/.pomerium/verify-…-token`: replicas ask about tokens that programs bring them (authenticate 8.7, N-48)."""

import asyncio
import json

from aiohttp import hdrs, web

from pomerium_agent.console.login.desk import Asked
from pomerium_agent.console.login.tenants import who_proves
from pomerium_agent.errors import HandoffRejected, NotBelieved, ProviderRefused, ProviderUnavailable, Unsupported
from pomerium_agent.handoff.proof import HEADER
from pomerium_agent.idp.identity import Claims

ACCESS, IDENTITY = "/.pomerium/verify-access-token", "/.pomerium/verify-identity-token"
FIELDS = {ACCESS: "accessToken", IDENTITY: "identityToken"}


async def verify_token(asked: Asked) -> web.Response:
    """Only for replicas that prove of which cluster they are; whose tokens they are is not told to anybody else."""
    try:
        body = await asked.body()
    except HandoffRejected as error:
        return _error(400, str(error))
    tenants = await asyncio.to_thread(asked.desk.tenants.all)
    tenant = who_proves(tenants, asked.request.headers.get(HEADER, ""), asked.path, body, asked.now)
    if tenant is None:
        return _error(401, f"{HEADER} must show that a cluster of this console asks")
    if not asked.desk.by_cluster.take(tenant.cluster_id):
        return _error(429, "too many questions within a minute")
    token = _token(body, FIELDS[asked.path])
    if token is None:
        return _error(400, f"the body must be JSON with {FIELDS[asked.path]}")
    try:
        claims = await _claims(asked, token)
    except (NotBelieved, ProviderRefused, Unsupported):
        return _answer({"valid": False})
    except ProviderUnavailable:
        return _error(503, "the identity provider cannot be asked")
    return _answer({"valid": True, "claims": dict(claims)})


async def _claims(asked: Asked, token: str) -> Claims:
    if asked.path == ACCESS:
        return await asked.provider.verify_access_token(token)
    return await asked.provider.verify_id_token(token)


def _token(body: bytes, name: str) -> str | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    token = found.get(name) if isinstance(found, dict) else None
    return token if isinstance(token, str) and token else None


def _answer(said: dict[str, object], status: int = 200) -> web.Response:
    return web.json_response(said, status=status, headers={hdrs.CACHE_CONTROL: "no-store"})


def _error(status: int, reason: str) -> web.Response:
    return _answer({"error": reason}, status)
