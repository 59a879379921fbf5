"""The cluster around us as an identity provider: a real API server on TLS, as far as tokens are concerned (4.2)."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from joserfc import jwt
from joserfc.jwk import RSAKey

from pomerium_agent.errors import BearerRejected, ProviderUnavailable
from pomerium_agent.sessions.bearer import BearerFormat, BearerRule, Bearers
from pomerium_agent.sessions.cluster import open_cluster
from pomerium_agent.sessions.jwt import KUBERNETES_ISSUER, JwtProvider
from tests.fakes.authority import Issued, issue_for_loopback
from tests.fakes.session_records import NOW
from tests.unit.sessions.stage import Stage

ISSUER = "https://kubernetes.default.svc.cluster.local"
TIME = int(NOW.timestamp())
KEY = RSAKey.generate_key(2048, {"kid": "k8s"})
OTHER = RSAKey.generate_key(2048, {"kid": "k8s"})
LOCAL = JwtProvider(name="cluster", issuer=KUBERNETES_ISSUER, audiences=("pomerium",))
ELSEWHERE = JwtProvider(name="ci", issuer="https://ci.invalid", audiences=("pomerium",))


class ApiServer:
    """Says who issues its tokens, and by which keys, to those who bring one."""

    def __init__(self, mount: Path) -> None:
        self.mount = mount
        self.issued: Issued = issue_for_loopback()
        self.issuer: object = ISSUER
        self.asked: list[str] = []
        self.environ: Mapping[str, str] = {}

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        _, _, authority = self.issued.write_to(self.mount)
        assert authority.name == "ca.crt"
        (self.mount / "token").write_text("agent-token\n")
        context: ssl.SSLContext = self.issued.server_context(self.mount)
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/openid/v1/jwks", self._keys)
        server = TestServer(app, host="127.0.0.1", scheme="https")
        await server.start_server(ssl=context)
        try:
            self.environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.port)}
            yield
        finally:
            await server.close()

    async def _discovery(self, request: web.Request) -> web.Response:
        return self._to(request, {"issuer": self.issuer, "jwks_uri": "https://never.invalid/keys"})

    async def _keys(self, request: web.Request) -> web.Response:
        return self._to(request, {"keys": [dict(KEY.as_dict(private=False))]})

    def _to(self, request: web.Request, answer: object) -> web.Response:
        self.asked.append(request.path)
        if request.headers.get("Authorization") != f"Bearer {(self.mount / 'token').read_text().strip()}":
            return web.Response(status=401)
        return web.json_response(answer)


def token(key: RSAKey = KEY, **claims: Any) -> str:
    payload = {"iss": ISSUER, "sub": "system:serviceaccount:ci:build", "aud": ["pomerium"], "exp": TIME + 60, **claims}
    return jwt.encode({"alg": "RS256", "kid": key.kid}, payload, key)


@asynccontextmanager
async def bearers(stage: Stage, environ: Mapping[str, str], mount: Path) -> AsyncIterator[Bearers]:
    async with (
        stage.sessions() as sessions,
        aiohttp.ClientSession() as http,
        open_cluster(environ, stage.clock, service_account=mount) as cluster,
    ):
        yield Bearers(sessions=sessions, backend=stage.backend, http=http, clock=stage.clock, cluster=cluster)


def rule(*providers: JwtProvider) -> BearerRule:
    return BearerRule(format=BearerFormat.JWT, providers=providers)


async def test_a_service_account_of_the_cluster_around_us_gets_in(tmp_path: Path) -> None:
    """A-9: by the API server's own keys, whatever address its document names, and with our token of the moment."""
    api, stage = ApiServer(tmp_path), Stage()
    async with api.serve(), bearers(stage, api.environ, tmp_path) as here:
        found = await here.find(token(), rule(ELSEWHERE, LOCAL))
        again = await here.find(token(sub="other"), rule(ELSEWHERE, LOCAL))

    assert found is not None
    assert again is not None
    assert (found.user_id, again.user_id) == ("cluster/system:serviceaccount:ci:build", "cluster/other")
    assert api.asked == ["/.well-known/openid-configuration", "/openid/v1/jwks"]


@pytest.mark.parametrize(
    "bad",
    [
        {"iss": "https://other"},
        {"iss": KUBERNETES_ISSUER},
        {"aud": "https://kubernetes.default.svc"},
        {"exp": TIME},
        {"key": OTHER},
        {"iss": "https://ci.invalid/"},
    ],
    ids=["issuer", "our word for it", "audience", "expired", "key", "slash"],
)
async def test_others_do_not(bad: dict[str, Any], tmp_path: Path) -> None:
    """A-9, A-10."""
    api = ApiServer(tmp_path)
    async with api.serve(), bearers(Stage(), api.environ, tmp_path) as here:
        with pytest.raises(BearerRejected):
            await here.find(token(**bad), rule(ELSEWHERE, LOCAL))


async def test_a_provider_of_another_name_keeps_its_issuer(tmp_path: Path) -> None:
    """Nor is the API server asked about what it did not issue."""
    api = ApiServer(tmp_path)
    async with api.serve(), bearers(Stage(), api.environ, tmp_path) as here:
        with pytest.raises(ProviderUnavailable, match=r"ci\.invalid"):
            await here.find(token(iss="https://ci.invalid"), rule(ELSEWHERE, LOCAL))

    assert api.asked == []


async def test_our_own_token_is_the_one_that_is_mounted_now(tmp_path: Path) -> None:
    """W6: projected tokens are replaced."""
    api, stage = ApiServer(tmp_path), Stage()
    async with api.serve(), bearers(stage, api.environ, tmp_path) as here:
        await here.find(token(), rule(LOCAL))
        (tmp_path / "token").write_text("another")
        stage.clock.jump(3600)
        found = await here.find(token(exp=TIME + 9999), rule(LOCAL))

    assert found is not None
    assert len(api.asked) == 4


async def test_while_the_api_server_is_gone_its_last_word_counts(tmp_path: Path) -> None:
    api, stage = ApiServer(tmp_path), Stage()
    async with api.serve(), bearers(stage, api.environ, tmp_path) as here:
        assert await here.find(token(), rule(LOCAL)) is not None
        api.issuer = None
        stage.clock.jump(601)
        assert await here.find(token(sub="late", exp=TIME + 9999), rule(LOCAL)) is not None


async def test_where_it_cannot_be_asked_nobody_is_let_in_and_nobody_is_called_wrong(tmp_path: Path) -> None:
    """Authorize 23: 503, for it may pass."""
    api = ApiServer(tmp_path)
    async with bearers(Stage(), {"KUBERNETES_SERVICE_HOST": "x"}, tmp_path) as outside:
        with pytest.raises(ProviderUnavailable, match="no Kubernetes cluster"):
            await outside.find(token(), rule(LOCAL))
    async with api.serve():
        pass  # there was one, and its authority is mounted
    async with bearers(Stage(), api.environ, tmp_path) as here:
        with pytest.raises(ProviderUnavailable, match="cannot reach"):
            await here.find(token(), rule(LOCAL))


async def test_another_authority_than_the_mounted_one_is_nobody(tmp_path: Path) -> None:
    api = ApiServer(tmp_path)
    async with api.serve():
        (tmp_path / "ca.crt").write_bytes(issue_for_loopback().authority)
        async with bearers(Stage(), api.environ, tmp_path) as here:
            with pytest.raises(ProviderUnavailable, match="CertificateError"):
                await here.find(token(), rule(LOCAL))

    assert api.asked == []


async def test_without_a_mounted_authority_there_is_no_cluster(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "2001:db8::1", "KUBERNETES_SERVICE_PORT": "6443"}
    async with open_cluster(environ, Stage().clock, service_account=tmp_path) as cluster:
        assert cluster is None


async def test_an_answer_without_an_issuer_is_none(tmp_path: Path) -> None:
    api, stage = ApiServer(tmp_path), Stage()
    api.issuer = None
    async with api.serve(), bearers(stage, api.environ, tmp_path) as here:
        for _ in range(2):
            with pytest.raises(ProviderUnavailable, match="names no issuer"):
                await here.find(token(), rule(LOCAL))
        api.issuer = ISSUER
        stage.clock.jump(31)
        assert await here.find(token(), rule(LOCAL)) is not None

    assert api.asked.count("/.well-known/openid-configuration") == 2
