"""An OpenID Connect provider with real keys that does what a test says: behave, lie, stall, break, roll its keys."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from aiohttp import web
from aiohttp.test_utils import TestServer
from joserfc import jws, jwt
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from pomerium_agent.runtime.clock import Clock

KEYS: Mapping[str, Key] = {
    "RS256": RSAKey.generate_key(2048, {"kid": "rsa"}),
    "ES256": ECKey.generate_key("P-256", {"kid": "ec"}),
    "EdDSA": OKPKey.generate_key("Ed25519", {"kid": "ed"}),
    "HS256": OctKey.generate_key(256, {"kid": "oct"}),
}
ROLLED = RSAKey.generate_key(2048, {"kid": "rolled"})


class _LeaveOut:
    def __repr__(self) -> str:
        return "left out"


LEAVE_OUT = _LeaveOut()  # as the value of a change: the name is left out
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request as it arrived."""

    method: str
    path: str
    authorization: str
    form: Mapping[str, str] = field(default_factory=dict)
    body: str = ""

    @property
    def basic(self) -> tuple[str, str] | None:
        """Client id and secret of Basic authentication, unescaped."""
        scheme, _, encoded = self.authorization.partition(" ")
        if scheme != "Basic":
            return None
        id, _, secret = base64.b64decode(encoded).decode().partition(":")
        return unquote_plus(id), unquote_plus(secret)


class HostileProvider:
    """What it says is the usual, with `…_changes` over it; `answers` replaces what a path says altogether."""

    def __init__(self, clock: Clock, *, path: str = "", client_id: str = "client", secret: str = "s3cret/+ %") -> None:
        self.clock = clock
        self.path = path
        self.client_id = client_id
        self.secret = secret
        self.origin = ""
        self.accepts: tuple[str, ...] = ("basic", "body")  # ways for a client to say who it is
        self.alg = "RS256"
        self.key: Key = KEYS["RS256"]
        self.header_changes: dict[str, Any] = {}
        self.keys: list[Key] = [KEYS[name] for name in ("RS256", "ES256", "EdDSA")]
        self.nonce = ""  # of the login under way
        self.codes = {"code"}
        self.refresh_tokens = {"refresh-0"}
        self.access_tokens: set[str] = set()
        self.document_changes: dict[str, Any] = {}
        self.token_changes: dict[str, Any] = {}
        self.id_token_changes: dict[str, Any] = {}
        self.userinfo_changes: dict[str, Any] = {}
        self.answers: dict[str, Answer] = {}  # by the end of a path
        self.headers: dict[str, str] = {}
        self.asked: list[Asked] = []
        self._count = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["HostileProvider"]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        async with TestServer(app, host="127.0.0.1") as server:
            self.origin = str(server.make_url("")).rstrip("/")
            yield self

    @property
    def issuer(self) -> str:
        return f"{self.origin}{self.path}"

    def of(self, path: str) -> list[Asked]:
        """The questions to one place."""
        return [asked for asked in self.asked if asked.path.endswith(path)]

    def fail(self, path: str, status: int, body: object = None, **headers: str) -> None:
        """From now on that place answers so."""

        async def answer(_: web.Request) -> web.Response:
            text = body if isinstance(body, str) else json.dumps(body)
            return web.Response(status=status, text=text, content_type="application/json", headers=headers)

        self.answers[path] = answer

    def stall(self, path: str) -> asyncio.Event:
        """From now on that place accepts questions and says nothing; the event tells that somebody waits."""
        somebody_waits = asyncio.Event()

        async def answer(_: web.Request) -> web.Response:
            somebody_waits.set()
            await asyncio.Event().wait()
            raise AssertionError

        self.answers[path] = answer
        return somebody_waits

    def token(self, access_token: str = "", **changes: Any) -> str:
        """A token for the usual person and client."""
        now = int(self.clock.now().timestamp())
        claims = {
            "iss": self.issuer,
            "sub": "ada",
            "aud": self.client_id,
            "iat": now,
            "exp": now + 3600,
            "email": "ada@id-token.example",
            "given_name": "Ada",
        }
        if self.nonce:
            claims["nonce"] = self.nonce
        if access_token:
            half = hashlib.sha256(access_token.encode()).digest()[:16]
            claims["at_hash"] = base64.urlsafe_b64encode(half).rstrip(b"=").decode()
        return self.sign(changed(claims, changes))

    def sign(self, claims: dict[str, Any]) -> str:
        """By the key and in the way that are set."""
        header = changed({"alg": self.alg, "kid": self.key.kid}, self.header_changes)
        if self.alg == "none":
            parts = (json.dumps(part).encode() for part in (header, claims))
            return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."
        registry = jws.JWSRegistry(algorithms=[self.alg], strict_check_header=False)
        return jwt.encode(header, claims, self.key, registry=registry)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = (await request.read()).decode()
        form = dict(parse_qsl(body)) if request.content_type.endswith("form-urlencoded") else {}
        self.asked.append(
            Asked(
                method=request.method,
                path=request.path,
                authorization=request.headers.get("Authorization", ""),
                form=form,
                body=body,
            )
        )
        for path, answer in self.answers.items():
            if request.path.endswith(path):
                return await answer(request)
        match request.path.rpartition("/")[2]:
            case "openid-configuration":
                return self._json(changed(self._document(), self.document_changes))
            case "keys":
                return self._json({"keys": [key.as_dict(private=False) for key in self.keys]})
            case "token":
                return self._token(self.asked[-1])
            case "userinfo":
                return self._userinfo(self.asked[-1])
            case "revoke":
                return web.Response()
        return web.Response(status=404)

    def _json(self, answer: object, status: int = 200) -> web.Response:
        return web.json_response(answer, status=status, headers=self.headers)

    def _document(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "revocation_endpoint": f"{self.issuer}/revoke",
            "end_session_endpoint": f"{self.issuer}/logout",
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "EdDSA", "HS256", "none"],
            "code_challenge_methods_supported": ["plain", "S256"],
        }

    def _token(self, asked: Asked) -> web.Response:
        form = asked.form
        ways = {
            "basic": asked.basic == (self.client_id, self.secret),
            "body": (form.get("client_id"), form.get("client_secret")) == (self.client_id, self.secret),
            "assertion": "client_assertion" in form,
            "public": form.get("client_id") == self.client_id and asked.basic is None,
        }
        if not any(ways[way] for way in self.accepts):
            return self._json({"error": "invalid_client", "error_description": f"not {self.secret}"}, 401)
        granted = form.get("code") in self.codes or form.get("refresh_token") in self.refresh_tokens
        if not granted:
            return self._json({"error": "invalid_grant", "error_description": json.dumps(dict(form))}, 400)
        self._count += 1
        access, refresh = f"access-{self._count}", f"refresh-{self._count}"
        self.codes.discard(form.get("code", ""))
        self.access_tokens.add(access)
        self.refresh_tokens.add(refresh)
        answer: dict[str, Any] = {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": 3600,
            "refresh_token": refresh,
            "id_token": self.token(access, **self.id_token_changes),
        }
        return self._json(changed(answer, self.token_changes))

    def _userinfo(self, asked: Asked) -> web.Response:
        if asked.authorization.removeprefix("Bearer ") not in self.access_tokens:
            return web.Response(status=401)
        claims = {"sub": "ada", "email": "ada@userinfo.example", "name": "Ada Lovelace", "groups": ["eng"]}
        return self._json(changed(claims, self.userinfo_changes))


def changed(usual: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**usual, **changes}.items() if value is not LEAVE_OUT}
