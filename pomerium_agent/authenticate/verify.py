"""Whether a token of an identity provider is good, for the replicas that are shown one (authenticate 8.7, N-48).

Who asks must be of this cluster, and proves it with the header of `handoff.proof`: whoever can ask freely can try
stolen tokens, and make the provider's limits ours. Stock agents send no proof; see `mixed_cluster` in the Desk.
"""

import json
from typing import Any

from aiohttp import hdrs, web

from pomerium_agent.authenticate.desk import Desk
from pomerium_agent.authenticate.rate import Rate
from pomerium_agent.authenticate.visit import Visit
from pomerium_agent.errors import GrantEnded, HandoffRejected, NotBelieved, ProviderRefused, Unsupported
from pomerium_agent.handoff.proof import HEADER, check_proof
from pomerium_agent.idp import Provider
from pomerium_agent.idp.identity import Claims

MAX_BODY = 64 * 1024


class Verifier:
    """Both endpoints. The limits are of this replica as a whole."""

    def __init__(self, *, proven: Rate, open_to_all: Rate) -> None:
        self._proven = proven
        self._open = open_to_all

    async def access_token(self, desk: Desk, visit: Visit) -> web.Response:
        return await self._answer(desk, visit, "accessToken")

    async def identity_token(self, desk: Desk, visit: Visit) -> web.Response:
        return await self._answer(desk, visit, "identityToken")

    async def _answer(self, desk: Desk, visit: Visit, name: str) -> web.Response:
        body = await visit.request.read()
        refusal = self._refusal(desk, visit, body)
        if refusal is not None:
            return refusal
        try:
            said = json.loads(body.decode())
            token, idp_id = said[name], said.get("identityProviderId") or visit.site.login.provider.id
            if not isinstance(token, str) or not isinstance(idp_id, str):
                raise TypeError
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            return _json(400, {"error": f'the body must be a JSON object with "{name}" and "identityProviderId"'})
        settings = visit.site.providers.get(idp_id)
        if settings is None:
            return _json(200, {"valid": False})
        try:
            claims = await _verify(desk.providers.get(settings), token, name)
        except (NotBelieved, GrantEnded, ProviderRefused, Unsupported):
            return _json(200, {"valid": False})
        return _json(200, {"valid": True, "claims": dict(claims)})

    def _refusal(self, desk: Desk, visit: Visit, body: bytes) -> web.Response | None:
        proof = visit.request.headers.get(HEADER, "")
        rate = self._proven
        if proof or not desk.mixed_cluster:
            try:
                check_proof(visit.site.shared_key, proof, visit.path, body, desk.clock.now())
            except HandoffRejected as error:
                return _json(401, {"error": str(error)})
        else:
            rate = self._open
        if not rate.allow(desk.clock.monotonic()):
            response = _json(429, {"error": "too many tokens at once"})
            response.headers[hdrs.RETRY_AFTER] = "1"
            return response
        return None


async def _verify(provider: Provider, token: str, name: str) -> Claims:
    if name == "accessToken":
        return await provider.verify_access_token(token)
    return await provider.verify_id_token(token)


def _json(status: int, value: dict[str, Any]) -> web.Response:
    return web.json_response(value, status=status, headers={hdrs.CACHE_CONTROL: "no-store"})
