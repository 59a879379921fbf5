"""What people really use, through a real replica: curl, psql, redis-cli, kubectl, gRPC, each as it is installed."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from pomerium_agent.demo.playground import free_port
from tests.e2e.visitor import Stage, on_stage, route, settings
from tests.e2e.world import CLUSTER, eventually
from tests.fakes.grpc_echo import Echo, serve_grpc
from tests.fakes.postgres import Postgres
from tests.fakes.private_ca import PrivateCa
from tests.fakes.raw_server import serve_raw
from tests.fakes.token_issuer import TokenIssuer
from tests.fakes.upstream import serve_upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PATIENCE = 30.0


def program(name: str) -> str:
    """Where a client is; the test is skipped, and says why, where it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


async def attempt(*command: str, environment: Mapping[str, str] | None = None) -> tuple[int | None, str]:
    """How a program ends, and all that it says."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            said = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, said


async def run(*command: str, environment: Mapping[str, str] | None = None, fails: bool = False) -> str:
    """What a program says; `fails`: that it ends with an error is what is expected."""
    code, said = await attempt(*command, environment=environment)
    assert (code != 0) is fails, said
    return said


@asynccontextmanager
async def local_port(stage: Stage, target: str, *options: str) -> AsyncIterator[tuple[str, asyncio.StreamReader]]:
    """`pomerium-agent connect`: the port it gives, and what it complains of."""
    visitor = stage.visitor
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pomerium_agent", "connect", visitor.name(target)),
        *("--at", f"127.0.0.1:{visitor.port}", "--proxy", f"https://door.{visitor.domain}"),
        *("--ca", str(visitor.ca_file), *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(PATIENCE):
            said = (await process.stdout.readline()).decode()
        assert said.endswith(f" leads to {visitor.name(target)}\n")
        yield said.split(" ")[0].rpartition(":")[2], process.stderr
    finally:
        process.terminate()
        async with asyncio.timeout(PATIENCE):
            assert await process.wait() == 0


@asynccontextmanager
async def serve_redis() -> AsyncIterator[int]:
    """A Redis that keeps nothing."""
    server, client, port = program("redis-server"), program("redis-cli"), free_port()
    process = await asyncio.create_subprocess_exec(
        *(server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:

        async def answers() -> bool:
            return await attempt(client, "-p", str(port), "ping") == (0, "PONG\n")

        await eventually("redis answers", answers)
        yield port
    finally:
        process.terminate()
        await process.wait()


async def test_databases_are_reached_through_a_tunnel_by_whom_the_policy_lets_in(
    postgres: Postgres, tmp_path: Path
) -> None:
    """R-5, R-10, A5, routes 3.2, 6.1, 6.2: psql and redis-cli."""
    psql, redis = program("psql"), program("redis-cli")

    def tunnel(source: str, port: int, **fields: object) -> str:
        return settings(**{"from": f"tcp+https://{source}", "to": f"tcp://127.0.0.1:{port}", **fields})

    async with postgres.database() as database, serve_redis() as cache:
        routes = (
            tunnel("db.DOMAIN:5432", database.server.port, allow_any_authenticated_user=True),
            tunnel("door.DOMAIN/cache.internal:6379", cache, allow_public_unauthenticated_access=True),
            tunnel("gone.DOMAIN:1", 1, allow_public_unauthenticated_access=True),
        )
        async with on_stage(*routes, settings=settings(default_upstream_timeout="1s")) as stage:
            verb = ("console", "service-account", "create", "robot", "--cluster", CLUSTER, "--json")
            made = json.loads(await stage.world.cluster.verb(*verb))
            token = tmp_path / "token"
            token.write_text(made["headers"]["X-Pomerium-Authorization"] + "\n")

            def url(port: str) -> str:
                return f"postgres://pomerium@127.0.0.1:{port}/{database.name}"

            async with local_port(stage, "db.DOMAIN:5432", "--token-file", str(token)) as (port, _):

                async def let_in() -> bool:  # the replica hears of the service account in a moment
                    return await attempt(psql, url(port), "-Atc", "select 40 + 2") == (0, "42\n")

                await eventually("psql gets through", let_in)
                # Longer than the timeout of requests, and more than any buffer holds.
                slow = "select pg_sleep(1.5); select length(repeat('x', 3000000))"
                assert "3000000" in await run(psql, url(port), "-Atc", slow)
                assert len(await run(psql, url(port), "-Atc", "select repeat('x', 3000000)")) == 3000001
            async with local_port(stage, "db.DOMAIN:5432") as (port, complaints):
                await run(psql, url(port), "-Atc", "select 1", fails=True)
                assert b"wants to know who you are" in await complaints.readline()
            async with local_port(stage, "cache.internal:6379") as (port, _):
                assert await run(redis, "-p", port, "set", "word", "told") == "OK\n"
                assert await run(redis, "-p", port, "get", "word") == "told\n"
            for target, reason in (("nobody.DOMAIN:5", b"there is no tcp route"), ("gone.DOMAIN:1", b"answers 503")):
                async with local_port(stage, target) as (port, complaints):
                    await run(redis, "-p", port, "ping", fails=True)
                    assert reason in await complaints.readline()
            # A page of ours is no tunnel, and a plain request finds none.
            assert (await stage.visitor.ask("db.DOMAIN:5432")).status == 404


async def test_curl_and_grpc_over_tls_are_served() -> None:
    """R-18, routes 6.2, 7.3, 9.2: HTTP/1.1 and HTTP/2 by curl; gRPC, unary and streaming, to an upstream with TLS."""
    curl, ca = program("curl"), PrivateCa("grpc")
    async with serve_upstream() as upstream, serve_grpc(ca.issue("127.0.0.1")) as service:
        routes = (
            route("web.DOMAIN", to=upstream.url),
            route("grpc.DOMAIN", to=f"https://127.0.0.1:{service.port}", tls_custom_ca=ca.base64, timeout="0s"),
        )
        async with on_stage(*routes) as stage:
            visitor, host = stage.visitor, stage.visitor.name("web.DOMAIN")
            common = (curl, "-sS", "--cacert", str(visitor.ca_file), "--connect-to", f"::127.0.0.1:{visitor.port}")
            for flag, version in (("--http1.1", "1.1"), ("--http2", "2")):
                said = await run(*common, flag, "-d", "a body", "-w", "\n%{http_version}", f"https://{host}/x?y=z")
                body, _, spoken = said.rpartition("\n")
                assert (json.loads(body)["path"], spoken) == ("/x?y=z", version)
                assert upstream.last.method == "POST"
            async with visitor.grpc("grpc.DOMAIN") as channel:
                echo = Echo(channel)
                assert await echo.once(b"abc") == b"cba"
                talk = echo.both()
                for word in (b"one", b"two"):
                    await talk.write(word)
                    assert await talk.read() == word.upper()
                await talk.done_writing()


class ApiServer:
    """As much of a Kubernetes API server as `kubectl get` and `kubectl exec` ask for."""

    def __init__(self) -> None:
        self.seen: list[dict[str, list[str]]] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        headers = request.headers
        self.seen.append({name.lower(): headers.getall(name) for name in headers})
        if request.path.endswith("/exec"):
            frames = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
            await frames.prepare(request)
            await frames.send_bytes(b"\x01hello from the pod\n")
            await frames.send_bytes(b'\x03{"metadata":{},"status":"Success"}')
            await frames.close()
            return frames
        pod = {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {"name": "p", "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Running"},
        }
        resource = {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list"]}
        known = {
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": [resource]},
            "/api/v1/namespaces/default/pods/p": pod,
        }
        found = known.get(request.path)
        return web.json_response(found or {"kind": "Status", "code": 404}, status=200 if found else 404)


@asynccontextmanager
async def serve_api() -> AsyncIterator[tuple[ApiServer, str]]:
    api, port = ApiServer(), free_port()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield api, f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def test_kubectl_gets_and_executes_as_whoever_it_is(tmp_path: Path) -> None:
    """A-26, A13, R-10, routes 9.6: kubectl itself, with a pretended name; exec by websocket, and SPDY's upgrade."""
    kubectl = program("kubectl")

    async def spdy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
        writer.write(await reader.readexactly(4))

    async with TokenIssuer().serve() as ci, serve_api() as (api, url), serve_raw(spdy) as forwards:
        providers = {"ci": {"issuer": ci.url, "audiences": ["pomerium"]}}
        common = {
            "bearer_token_format": "jwt",
            "kubernetes_service_account_token": "k8s-token",
            "allow_any_authenticated_user": True,
        }
        routes = (
            settings(**{"from": "https://k8s.DOMAIN", "to": url, **common}),
            settings(**{"from": "https://spdy.DOMAIN", "to": f"http://127.0.0.1:{forwards}", **common}),
        )
        async with on_stage(*routes, settings=settings(identity_providers=providers)) as stage:
            visitor, token = stage.visitor, ci.token(email="job@example.com", groups=["builders"])

            async def way_there(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                """Names of the cluster lead nowhere on this machine: kubectl is given a proxy that knows better."""
                await reader.readuntil(b"\r\n\r\n")
                there, back = await asyncio.open_connection("127.0.0.1", visitor.port)
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                async with asyncio.TaskGroup() as group:
                    group.create_task(_copy(reader, back))
                    group.create_task(_copy(there, writer))

            async with serve_raw(way_there) as proxy:
                config = {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "x",
                    "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
                    "users": [{"name": "x", "user": {"token": token, "as": "root", "as-groups": ["system:masters"]}}],
                    "clusters": [
                        {
                            "name": "x",
                            "cluster": {
                                "server": f"https://{visitor.name('k8s.DOMAIN')}",
                                "certificate-authority": str(visitor.ca_file),
                                "proxy-url": f"http://127.0.0.1:{proxy}",
                            },
                        }
                    ],
                }
                file = tmp_path / "config"
                file.write_text(json.dumps(config))
                with_config = (kubectl, "--kubeconfig", str(file), "--cache-dir", str(tmp_path / "cache"))
                environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
                got = await run(*with_config, "get", "pod", "p", "-o", "name", environment=environment)
                executed = await run(*with_config, "exec", "p", "--", "hello", environment=environment)
            assert got == "pod/p\n"
            assert "hello from the pod" in executed
            assert len(api.seen) > 3
            for seen in api.seen:
                assert seen["authorization"] == ["Bearer k8s-token"]
                assert seen["impersonate-user"] == ["job@example.com"]
                assert seen["impersonate-group"] == ["builders"]

            async with visitor.connect() as line:
                host = f"Host: {visitor.name('spdy.DOMAIN')}"
                await line.send(
                    *("POST /api/v1/namespaces/default/pods/p/portforward HTTP/1.1", host, "Content-Length: 0"),
                    *("Connection: Upgrade", "Upgrade: SPDY/3.1", f"Authorization: Bearer {token}"),
                )
                assert (await line.head())[0] == 101
                line.writer.write(b"ping")
                assert await line.reader.readexactly(4) == b"ping"


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
