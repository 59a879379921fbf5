"""Google, as far as identity tokens are concerned: a token endpoint and a metadata server on loopback."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from aiohttp import web
from joserfc import jwt
from joserfc.jwk import RSAKey

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
EMAIL = "proxy@project.iam.gserviceaccount.com"


@lru_cache
def _keys() -> tuple[RSAKey, RSAKey]:
    """The account's and Google's own; they take a while to make."""
    return RSAKey.generate_key(2048), RSAKey.generate_key(2048, {"kid": "google"})


class Google:
    """Gives a token for whatever audience is asked for, to the account that it knows or to the machine it runs on."""

    def __init__(self) -> None:
        self.account, self.key = _keys()
        self.url = ""
        self.status = 200
        self.answer: str | None = None  # instead of a token
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.asked: list[str] = []  # audiences
        self.assertions: list[dict[str, Any]] = []
        self.answering = asyncio.Event()
        self.answering.set()

    @property
    def key_file(self) -> str:
        """The service account's, as Google hands it out."""
        return json.dumps(
            {
                "type": "service_account",
                "client_email": EMAIL,
                "private_key_id": "account-key",
                "private_key": self.account.as_pem(private=True).decode(),
                "token_uri": f"{self.url}/token",
            }
        )

    def who(self, token: str) -> tuple[str, str]:
        """Whom a token of ours is for, and who showed it."""
        claims = jwt.decode(token, self.key, algorithms=["RS256"]).claims
        return claims["aud"], claims["email"]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["Google"]:
        app = web.Application()
        app.router.add_post("/token", self._token)
        app.router.add_get("/computeMetadata/v1/instance/service-accounts/default/identity", self._metadata)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            await web.SockSite(runner, listener).start()
            yield self
        finally:
            await runner.cleanup()

    async def _token(self, request: web.Request) -> web.Response:
        form = await request.post()
        assertion = jwt.decode(str(form["assertion"]), self.account, algorithms=["RS256"])
        assert form["grant_type"] == GRANT
        assert assertion.header["kid"] == "account-key"
        self.assertions.append(assertion.claims)
        made = await self._made(assertion.claims["target_audience"], assertion.claims["iss"])
        body = made if self.answer is not None else json.dumps({"id_token": made})
        return web.Response(status=self.status, text=body, content_type="application/json")

    async def _metadata(self, request: web.Request) -> web.Response:
        if request.headers.get("Metadata-Flavor") != "Google" or request.query.get("format") != "full":
            return web.Response(status=403)
        made = await self._made(request.query["audience"], "machine@project.iam.gserviceaccount.com")
        return web.Response(status=self.status, text=f"{made}\n")

    async def _made(self, audience: str, email: str) -> str:
        self.asked.append(audience)
        await self.answering.wait()
        issued = int(self.now().timestamp())
        claims = {"aud": audience, "email": email, "iat": issued, "exp": issued + 3600}
        made = jwt.encode({"alg": "RS256", "kid": "google"}, claims, self.key)
        return made if self.answer is None else self.answer
