"""An identity provider of workloads on loopback: publishes its keys, and signs whatever a test wants to claim."""

import base64
import hmac
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

from aiohttp import web
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, RSAKey


@lru_cache
def _rsa() -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": "rsa"})


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class TokenIssuer:
    """Found by its URL, which is its issuer too."""

    def __init__(self) -> None:
        self.url = ""
        self.rsa = _rsa()
        self.ec = ECKey.generate_key("P-256", {"kid": "ec"})
        self.asked: list[str] = []

    def token(self, *, key: Key | None = None, alg: str = "RS256", **claims: Any) -> str:
        """A JWT for `pomerium`, unless the claims say otherwise."""
        key = key or self.rsa
        payload = {"iss": self.url, "sub": "job", "aud": "pomerium", "exp": int(time.time()) + 600, **claims}
        registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
        return jwt.encode({"alg": alg, "kid": key.kid}, payload, key, registry=registry)

    def unsigned(self) -> str:
        """The same with `alg: none`."""
        return self._written({"alg": "none", "typ": "JWT"}) + "."

    def by_public_key(self) -> str:
        """Signed HS256, with the published key taken for a secret."""
        signed = self._written({"alg": "HS256", "kid": "rsa"})
        secret = self.rsa.as_pem(private=False)
        return f"{signed}.{_base64(hmac.digest(secret, signed.encode(), 'sha256'))}"

    def _written(self, header: dict[str, str]) -> str:
        claims = {"iss": self.url, "sub": "job", "aud": "pomerium", "exp": int(time.time()) + 600}
        return f"{_base64(json.dumps(header).encode())}.{_base64(json.dumps(claims).encode())}"

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["TokenIssuer"]:
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/keys", self._keys)
        app.router.add_get("/userinfo", self._userinfo)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            await web.SockSite(runner, listener).start()
            yield self
        finally:
            await runner.cleanup()

    async def _discovery(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        endpoints = ("authorization", "token", "userinfo")
        said = {f"{name}_endpoint": f"{self.url}/{name}" for name in endpoints}
        return web.json_response({"issuer": self.url, "jwks_uri": f"{self.url}/keys", **said})

    async def _userinfo(self, request: web.Request) -> web.Response:
        """Whose access token it is, if it is one that was signed here; nothing of whom it is for."""
        self.asked.append(request.path)
        try:
            token = jwt.decode(request.headers["Authorization"].removeprefix("Bearer "), self.rsa, algorithms=["RS256"])
        except (JoseError, ValueError):
            return web.json_response({"error": "invalid_token"}, status=401)
        return web.json_response({"sub": token.claims["sub"], "email": "job@example.com"})

    async def _keys(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        return web.json_response({"keys": [dict(key.as_dict(private=False)) for key in (self.rsa, self.ec)]})
