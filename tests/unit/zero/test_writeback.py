"""Keeping the bootstrap config in a Kubernetes secret, against a real API server that knows one verb."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from pomerium_agent.errors import SettingsError
from pomerium_agent.zero.answers import BootstrapConfig
from pomerium_agent.zero.bootstrap_file import open_sealed
from pomerium_agent.zero.writeback import FileWriteback, Writeback, WritebackFailed, open_writeback
from tests.fakes.authority import issue_for_loopback

KEY = b"k" * 32
URI = "secret://my-namespace/my-secret/some/key"
BOOTSTRAP = BootstrapConfig(cluster_id="c", organization_id="o", shared_secret=b"s" * 32)


@dataclass
class ApiServer:
    environ: dict[str, str] = field(default_factory=dict)
    account: Path = Path()
    valid_token: str = "token-1"
    status: int = 200
    message: str = "secrets is forbidden"
    seen: list[tuple[web.BaseRequest, bytes]] = field(default_factory=list)

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.seen.append((request, await request.read()))
        if request.headers.get("Authorization") != f"Bearer {self.valid_token}":
            return web.json_response({"kind": "Status", "message": "Unauthorized"}, status=401)
        return web.json_response({"kind": "Status", "message": self.message}, status=self.status)

    async def open(self) -> Writeback:
        writeback = await asyncio.to_thread(
            open_writeback, URI, KEY, environ=self.environ, service_account=self.account
        )
        assert writeback is not None
        return writeback


@asynccontextmanager
async def serve_api(folder: Path) -> AsyncIterator[ApiServer]:
    issued = issue_for_loopback()
    api = ApiServer()
    runner = web.ServerRunner(web.Server(api.answer, access_log=None))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=issued.server_context(folder))
    await site.start()
    api.account = folder
    api.environ = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(runner.addresses[0][1])}
    (folder / "token").write_text("token-1\n")
    try:
        yield api
    finally:
        await runner.cleanup()


async def test_the_secret_is_applied_on_the_server_side(tmp_path: Path) -> None:
    """Z-27."""
    async with serve_api(tmp_path) as api:
        await (await api.open()).save(BOOTSTRAP)

        ((request, body),) = api.seen
        assert request.method == "PATCH"
        assert request.path == "/api/v1/namespaces/my-namespace/secrets/my-secret"
        assert dict(request.query) == {"fieldManager": "pomerium-zero", "force": "true"}
        assert request.headers["Content-Type"] == "application/apply-patch+yaml"
        assert request.headers["Authorization"] == "Bearer token-1"
        document = yaml.safe_load(body)
        sealed = base64.b64decode(document.pop("data")["some/key"])
        assert document == {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "my-secret", "namespace": "my-namespace"},
        }
        assert open_sealed(KEY, sealed) == BOOTSTRAP


async def test_a_secret_that_also_holds_much_else_is_written_all_the_same(tmp_path: Path) -> None:
    """Z-27: the answer shows the whole object, which may have a megabyte."""
    async with serve_api(tmp_path) as api:
        writeback = await api.open()
        api.message = "x" * 1_500_000

        await writeback.save(BOOTSTRAP)
        await writeback.save(BOOTSTRAP)

        assert len(api.seen) == 1


async def test_the_same_content_is_not_written_again(tmp_path: Path) -> None:
    """W5."""
    async with serve_api(tmp_path) as api:
        writeback = await api.open()
        await writeback.save(BOOTSTRAP)
        await writeback.save(BOOTSTRAP)

        assert len(api.seen) == 1


async def test_with_another_key_the_same_content_is_written_anew(tmp_path: Path) -> None:
    """Z-6, Z-27: the cluster has another token."""
    another = bytes(32)
    async with serve_api(tmp_path) as api:
        writeback = await api.open()
        await writeback.save(BOOTSTRAP)

        writeback.rekey(another)
        await writeback.save(BOOTSTRAP)

        (_, (_, body)) = api.seen
        assert open_sealed(another, base64.b64decode(yaml.safe_load(body)["data"]["some/key"])) == BOOTSTRAP


async def test_the_token_is_read_for_each_write(tmp_path: Path) -> None:
    """W6: projected tokens expire and are replaced."""
    async with serve_api(tmp_path) as api:
        writeback = await api.open()
        api.valid_token = "token-2"
        (tmp_path / "token").write_text("token-2")

        await writeback.save(BOOTSTRAP)

        assert len(api.seen) == 1


async def test_a_refused_token_is_read_once_more(tmp_path: Path) -> None:
    """W6."""
    async with serve_api(tmp_path) as api:
        writeback = await api.open()
        api.valid_token = "token-2"

        with pytest.raises(WritebackFailed, match="Kubernetes answered 401: Unauthorized"):
            await writeback.save(BOOTSTRAP)

        assert len(api.seen) == 2


async def test_a_refusal_says_why_and_the_next_write_tries_again(tmp_path: Path) -> None:
    """Z-26, Z-27."""
    async with serve_api(tmp_path) as api:
        writeback = await api.open()
        api.status = 403

        with pytest.raises(WritebackFailed, match="my-namespace/my-secret: Kubernetes answered 403: secrets is forb"):
            await writeback.save(BOOTSTRAP)
        api.status = 201
        await writeback.save(BOOTSTRAP)


async def test_an_api_server_of_another_authority_is_not_trusted(tmp_path: Path) -> None:
    """Zero link 8.4."""
    async with serve_api(tmp_path) as api:
        (tmp_path / "ca.crt").write_bytes(issue_for_loopback().authority)

        with pytest.raises(WritebackFailed, match="CERTIFICATE_VERIFY_FAILED"):
            await (await api.open()).save(BOOTSTRAP)

    assert api.seen == []


def test_outside_of_a_cluster_a_secret_cannot_be_written(tmp_path: Path) -> None:
    """Z-28."""
    with pytest.raises(SettingsError, match="works only inside a Kubernetes cluster"):
        open_writeback(URI, KEY, environ={}, service_account=tmp_path)


def test_without_a_service_account_a_secret_cannot_be_written(tmp_path: Path) -> None:
    """Z-28."""
    environ = {"KUBERNETES_SERVICE_HOST": "::1", "KUBERNETES_SERVICE_PORT": "1"}
    with pytest.raises(SettingsError, match=r"the service account in .* cannot be used"):
        open_writeback(URI, KEY, environ=environ, service_account=tmp_path)


async def test_a_file_uri_names_a_file(tmp_path: Path) -> None:
    """Z-28: whatever characters are in its name."""
    path = tmp_path / "50% off #1?.dat"

    writeback = open_writeback(path.as_uri(), KEY)

    assert isinstance(writeback, FileWriteback)
    await writeback.save(BOOTSTRAP)
    assert open_sealed(KEY, path.read_bytes()) == BOOTSTRAP


def test_no_uri_means_no_writeback() -> None:
    assert open_writeback("", KEY) is None


async def test_a_service_account_that_is_echoed_does_not_come_into_our_words(tmp_path: Path) -> None:
    """Z-26: the words go to logs and reports."""
    async with serve_api(tmp_path) as api:
        writeback = await api.open()
        api.status, api.message = 403, "who is Bearer token-1?"

        with pytest.raises(WritebackFailed, match="who is Bearer") as failed:
            await writeback.save(BOOTSTRAP)

    assert "token-1" not in str(failed.value)
