"""What the development provider answers: its pages, its tokens, all of it in memory."""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

from aiohttp import hdrs, web
from joserfc import jwt
from joserfc.jwk import ECKey

from pomerium_agent.demo.provider_people import DevClient, DevProvider, DevUser
from pomerium_agent.look import (
    Action,
    Form,
    Icon,
    Message,
    PasswordForm,
    render_message,
    render_password_form,
    security_headers,
    signed_out,
)
from pomerium_agent.runtime.clock import Clock

COOKIE = "dev_provider"
CODE_SECONDS, TOKEN_SECONDS = 60, 300
LABEL = "Development only: these accounts are not real, and everybody may know their passwords."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grant:
    """What a code, an access token or a refresh token stands for."""

    user: DevUser
    client: DevClient
    scope: str
    nonce: str
    until: float
    redirect_uri: str = ""
    challenge: str = ""


class Pages:
    """The handlers."""

    def __init__(self, provider: DevProvider, clock: Clock, key: ECKey) -> None:
        self._provider = provider
        self._clock = clock
        self._key = key
        self._sessions: dict[str, DevUser] = {}
        self._codes: dict[str, _Grant] = {}
        self._access: dict[str, _Grant] = {}
        self._refresh: dict[str, _Grant] = {}

    def application(self) -> web.Application:
        application = web.Application()
        application.add_routes(
            [
                web.get("/.well-known/openid-configuration", self.discovery),
                web.get("/jwks", self.jwks),
                web.get("/authorize", self.authorize),
                web.post("/authorize", self.log_in),
                web.post("/token", self.token),
                web.get("/userinfo", self.userinfo),
                web.get("/end_session", self.end_session),
            ]
        )
        return application

    async def discovery(self, _: web.Request) -> web.Response:
        issuer = self._provider.issuer
        names = ("token", "userinfo", "end_session")
        return web.json_response(
            {
                "issuer": issuer,
                "authorization_endpoint": f"{issuer}/authorize",
                **{f"{name}_endpoint": f"{issuer}/{name}" for name in names},
                "jwks_uri": f"{issuer}/jwks",
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post", "none"],
                "scopes_supported": ["openid", "profile", "email", "groups", "offline_access"],
                "authorization_response_iss_parameter_supported": True,
            }
        )

    async def jwks(self, _: web.Request) -> web.Response:
        return web.json_response({"keys": [self._key.as_dict(private=False)]})

    async def authorize(self, request: web.Request) -> web.Response:
        """The form, or at once back to the client of a browser that is logged in."""
        self._client_of(request)
        user = self._sessions.get(request.cookies.get(COOKIE, ""))
        if user is not None:
            return web.Response(status=302, headers={hdrs.LOCATION: self._back(request, user)})
        return self._form(request)

    async def log_in(self, request: web.Request) -> web.Response:
        """E-mail address and password, as the form sends them."""
        self._client_of(request)
        fields = dict(parse_qsl(await request.text()))
        email = fields.get("email", "")
        user = next((each for each in self._provider.users if each.email.lower() == email.lower()), None)
        if user is None or not hmac.compare_digest(user.password.encode(), fields.get("password", "").encode()):
            return self._form(request, email=email, error="There is nobody with that address and password.")
        session = secrets.token_urlsafe(32)
        self._sessions[session] = user
        url = self._back(request, user)
        # No redirect: Chromium would hold all that follow it to the form-action of this page's policy.
        message = Message(title="You are logged in", icon=Icon.CHECK, primary=Action("Go on", url))
        response = _page(render_message(message), headers={"Refresh": f"0;url={url}"})
        response.set_cookie(COOKIE, session, httponly=True, samesite="Lax")
        return response

    async def token(self, request: web.Request) -> web.Response:
        fields = dict(parse_qsl(await request.text()))
        client = self._authenticated(request, fields)
        if client is None:
            return _error("invalid_client", 401)
        if fields.get("grant_type") == "refresh_token":
            grant = self._refresh.pop(fields.get("refresh_token", ""), None)
        else:
            grant = self._codes.pop(fields.get("code", ""), None)
            digest = hashlib.sha256(fields.get("code_verifier", "").encode()).digest()
            if grant is not None and (
                _base64(digest) != grant.challenge or fields.get("redirect_uri") != grant.redirect_uri
            ):
                grant = None
        if grant is None or grant.client != client or grant.until < self._now():
            return _error("invalid_grant", 400)
        return web.json_response(self._tokens(grant), headers={hdrs.CACHE_CONTROL: "no-store"})

    async def userinfo(self, request: web.Request) -> web.Response:
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        grant = self._access.get(token) if scheme.lower() == "bearer" else None
        if grant is None or grant.until < self._now():
            return _error("invalid_token", 401)
        return web.json_response(grant.user.claims())

    async def end_session(self, request: web.Request) -> web.Response:
        self._sessions.pop(request.cookies.get(COOKIE, ""), None)
        url = request.query.get("post_logout_redirect_uri", "")
        known = any(url in client.post_logout_redirect_uris for client in self._provider.clients)
        if known:
            return web.Response(status=302, headers={hdrs.LOCATION: url})
        return _page(render_message(signed_out()))

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _client_of(self, request: web.Request) -> DevClient:
        """The client that sent the browser. What is wrong with its request is said here, not to it."""
        query = request.query
        client = next((each for each in self._provider.clients if each.id == query.get("client_id")), None)
        if client is None or query.get("redirect_uri") not in client.redirect_uris:
            raise web.HTTPBadRequest(text="the client or its redirect_uri is not registered here")
        if query.get("response_type") != "code" or query.get("code_challenge_method") != "S256":
            raise web.HTTPBadRequest(text="only the code flow with PKCE (S256) is spoken here")
        return client

    def _form(self, request: web.Request, *, email: str = "", error: str = "") -> web.Response:
        who = " or ".join(user.email for user in self._provider.users)
        page = PasswordForm(
            form=Form(request.path_qs),
            title="Development sign-in",
            text=f"Sign in as {who}.",
            email=email,
            error=error,
            note=LABEL,
        )
        return _page(render_password_form(page), status=401 if error else 200)

    def _back(self, request: web.Request, user: DevUser) -> str:
        query, code = request.query, secrets.token_urlsafe(32)
        client = self._client_of(request)
        self._codes[code] = _Grant(
            user=user,
            client=client,
            scope=query.get("scope", ""),
            nonce=query.get("nonce", ""),
            until=self._now() + CODE_SECONDS,
            redirect_uri=query["redirect_uri"],
            challenge=query.get("code_challenge", ""),
        )
        answer = urlencode({"code": code, "state": query.get("state", ""), "iss": self._provider.issuer})
        separator = "&" if urlsplit(query["redirect_uri"]).query else "?"
        return f"{query['redirect_uri']}{separator}{answer}"

    def _authenticated(self, request: web.Request, fields: dict[str, str]) -> DevClient | None:
        id, secret = fields.get("client_id", ""), fields.get("client_secret", "")
        scheme, _, text = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "basic":
            try:
                id, _, secret = (base64.b64decode(text).decode()).partition(":")
            except ValueError:
                return None
            id, secret = unquote_plus(id), unquote_plus(secret)
        client = next((each for each in self._provider.clients if each.id == id), None)
        return client if client is not None and hmac.compare_digest(client.secret.encode(), secret.encode()) else None

    def _tokens(self, grant: _Grant) -> dict[str, object]:
        now = int(self._now())
        access = secrets.token_urlsafe(32)
        lasting = {name: getattr(grant, name) for name in ("user", "client", "scope", "nonce")}
        self._access[access] = _Grant(**lasting, until=now + TOKEN_SECONDS)
        claims = {
            **grant.user.claims(),
            "iss": self._provider.issuer,
            "aud": grant.client.id,
            "iat": now,
            "exp": now + TOKEN_SECONDS,
            "at_hash": _base64(hashlib.sha256(access.encode()).digest()[:16]),
        }
        if grant.nonce:
            claims["nonce"] = grant.nonce
        header = {"alg": "ES256", "kid": self._key.kid}
        answer: dict[str, object] = {
            "access_token": access,
            "token_type": "Bearer",
            "expires_in": TOKEN_SECONDS,
            "scope": grant.scope,
            "id_token": jwt.encode(header, claims, self._key, algorithms=["ES256"]),
        }
        if "offline_access" in grant.scope.split():
            answer["refresh_token"] = refresh = secrets.token_urlsafe(32)
            self._refresh[refresh] = _Grant(**lasting, until=float("inf"))
        return answer


def _page(text: str, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    given = {**security_headers(), **(headers or {})}
    return web.Response(status=status, text=text, content_type="text/html", charset="utf-8", headers=given)


def _error(code: str, status: int) -> web.Response:
    return web.json_response({"error": code}, status=status, headers={hdrs.CACHE_CONTROL: "no-store"})


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
