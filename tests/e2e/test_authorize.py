"""The real Envoy asks the real authorize service (R-9, A-2, envoy.md 2.2)."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from pomerium_agent.authorize.check import check
from pomerium_agent.authorize.server import serve_authorize
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from tests.fakes.bare_envoy import bootstrap, cluster, context, envoy, ext_authz, pipe

pytestmark = pytest.mark.e2e


def listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(1024)
    return sock


@asynccontextmanager
async def asking_envoy(directory: Path, port: int) -> AsyncIterator[aiohttp.ClientSession]:
    """An Envoy with an internal route and one that is not, both answered by Envoy itself once they may pass."""
    answer = {"direct_response": {"status": 200, "body": {"inline_string": "passed"}}}
    routes = [
        {
            "match": {"prefix": "/.pomerium/"},
            "typed_per_filter_config": context(internal="true", route_id=""),
            **answer,
        },
        {"match": {"prefix": "/"}, "typed_per_filter_config": context(internal="false", route_id="r1"), **answer},
    ]
    configuration = bootstrap(
        directory / "admin.sock",
        port,
        [cluster("authorize", pipe(directory / "authorize.sock"), http2=True)],
        routes,
        [ext_authz("authorize")],
    )
    async with (
        envoy(configuration, directory),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=aiohttp.ClientTimeout(30)) as client,
    ):
        yield client


async def test_what_is_not_allowed_is_denied_in_the_form_of_the_client(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    async with serve_authorize(listen(tmp_path / "authorize.sock"), check), asking_envoy(tmp_path, free_port()) as web:
        page = await web.get("/", headers={"accept": "text/html"})
        data = await web.get("/", headers={"accept": "application/json"})
        grpc = await web.post("/", headers={"content-type": "application/grpc"})
        robots = await web.get("/robots.txt")

        assert (page.status, page.content_type) == (404, "text/html")
        assert page.headers["x-pomerium-intercepted-response"] == "true"
        assert data.status == 404
        body = await data.json()
        assert body["error"] == "Not Found"
        assert body["request_id"]
        assert (grpc.status, grpc.headers["grpc-status"]) == (200, "12")  # Envoy makes gRPC's own form of it
        assert (robots.status, await robots.text()) == (200, "User-agent: *\nDisallow: /")


async def test_internal_routes_pass(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """R-8."""
    async with serve_authorize(listen(tmp_path / "authorize.sock"), check), asking_envoy(tmp_path, free_port()) as web:
        assert await (await web.get("/.pomerium/")).text() == "passed"
        assert (await web.get("/.pomerium/user")).status == 401


async def test_a_question_of_many_frames_is_understood(tmp_path: Path, free_port: Callable[[], int]) -> None:
    async with serve_authorize(listen(tmp_path / "authorize.sock"), check), asking_envoy(tmp_path, free_port()) as web:
        long = {f"x-{n}": "v" * 7_000 for n in range(8)}

        assert await (await web.get("/.pomerium/", headers=long)).text() == "passed"


async def test_a_check_that_fails_is_answered_503_and_the_next_one_is_not(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """A-2."""

    def sometimes(request: bytes) -> bytes:
        if "x-fail" in CheckRequest.FromString(request).attributes.request.http.headers:
            raise LookupError("a bug")
        return check(request)

    sock = listen(tmp_path / "authorize.sock")
    async with serve_authorize(sock, sometimes), asking_envoy(tmp_path, free_port()) as web:
        assert (await web.get("/.pomerium/", headers={"x-fail": "1"})).status == 503
        assert (await web.get("/.pomerium/")).status == 200


async def test_agents_come_and_go_under_load_and_no_request_fails(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """Envoy.md 5: the socket is kept, each agent leaves politely."""
    kept = listen(tmp_path / "authorize.sock")
    served = {str(n): asyncio.Event() for n in range(4)}
    statuses: list[int] = []

    def answering_as(name: str) -> Callable[[bytes], bytes]:
        answer = CheckResponse()
        header = answer.ok_response.response_headers_to_add.add().header
        header.key, header.value = "x-agent", name
        answer_bytes = answer.SerializeToString()
        return lambda _request: answer_bytes

    async with asking_envoy(tmp_path, free_port()) as web:

        async def load() -> None:
            while not served["3"].is_set():
                async with web.get("/") as response:
                    statuses.append(response.status)
                    served[response.headers.get("x-agent", "3")].set()

        async with asyncio.TaskGroup() as tasks:
            loads: list[asyncio.Task[None]] = []
            for name, event in served.items():
                async with serve_authorize(kept.dup(), answering_as(name)):
                    loads = loads or [tasks.create_task(load()) for _ in range(16)]
                    await asyncio.wait_for(event.wait(), 30)
                    if name == "3":
                        await asyncio.wait(loads)
    kept.close()

    assert set(statuses) == {200}
