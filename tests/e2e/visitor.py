"""Who stands in front of a replica: asks for any host, reads what comes back; also byte by byte, and as gRPC."""

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from grpc import aio
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from pomerium_agent.demo.playground import ReplicaAt
from tests.e2e.world import World, eventually, open_world

Headers = Iterable[tuple[str, str]]
PATIENCE = 15.0


def route(host: str, **fields: object) -> str:
    """A route of a configuration file; DOMAIN is the starter domain. Everyone may come in."""
    return settings(**{"from": f"https://{host}", **fields, "allow_public_unauthenticated_access": True})


def settings(**fields: object) -> str:
    """Keys of a configuration file: JSON values are YAML."""
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items())


def answer(text: str, status: int = 200) -> dict[str, object]:
    """The field `response`."""
    return {"status": status, "body": text}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a visitor was answered."""

    status: int
    headers: CIMultiDictProxy[str]
    text: str

    @property
    def said(self) -> Mapping[str, Any]:
        """The body, which is a JSON object."""
        found = json.loads(self.text)
        assert isinstance(found, dict)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """A client of one replica. It trusts the cluster's CA and keeps no cookies."""

    domain: str
    port: int
    ca_file: Path
    client: aiohttp.ClientSession

    def name(self, host: str) -> str:
        """The host, its DOMAIN filled in."""
        return host.replace("DOMAIN", self.domain)

    async def ask(
        self, host: str, path: str = "/", *, method: str = "GET", headers: Headers = (), data: object = None
    ) -> Reply:
        """One request, its path exactly as spelled; redirects are not followed."""
        sent = CIMultiDict([("Host", self.name(host)), *headers])
        async with self.client.request(
            method,
            URL(f"https://127.0.0.1:{self.port}{path}", encoded=True),
            headers=sent,
            data=data,
            allow_redirects=False,
            server_hostname=f"door.{self.domain}",
        ) as response:
            return Reply(response.status, response.headers, await response.text())

    async def statuses(self, host: str, *paths: str, headers: Headers = ()) -> list[int]:
        """The status of each path."""
        return [(await self.ask(host, path, headers=headers)).status for path in paths]

    @asynccontextmanager
    async def websocket(
        self, host: str, path: str = "/", **options: Any
    ) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """An open websocket; raises aiohttp.WSServerHandshakeError when it is refused."""
        async with self.client.ws_connect(
            f"https://127.0.0.1:{self.port}{path}",
            headers={"Host": self.name(host)},
            server_hostname=f"door.{self.domain}",
            **options,
        ) as frames:
            yield frames

    @asynccontextmanager
    async def grpc(self, host: str) -> AsyncIterator[aio.Channel]:
        """A gRPC channel over HTTP/2 and TLS."""
        trusted = await asyncio.to_thread(self.ca_file.read_bytes)
        options = [
            ("grpc.default_authority", self.name(host)),
            ("grpc.ssl_target_name_override", f"door.{self.domain}"),
        ]
        credentials = grpc.ssl_channel_credentials(trusted)
        async with aio.secure_channel(f"127.0.0.1:{self.port}", credentials, options) as channel:
            yield channel

    @asynccontextmanager
    async def connect(
        self, server_name: str | None = None, *, alpn: str = "http/1.1", preamble: bytes = b""
    ) -> AsyncIterator["Line"]:
        """A raw TLS connection that asks for `server_name` ("" asks for nobody), and trusts everyone.

        `preamble` is sent before TLS begins.
        """
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([alpn])
        wanted = f"door.{self.domain}" if server_name is None else server_name
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(preamble)
            await writer.start_tls(context, server_hostname=wanted)
        try:
            yield Line(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):  # the other side hung up first
                await writer.wait_closed()


@dataclass(frozen=True, slots=True)
class Line:
    """One connection, byte by byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def protocol(self) -> str | None:
        """What ALPN agreed on."""
        found: str | None = self.writer.get_extra_info("ssl_object").selected_alpn_protocol()
        return found

    @property
    def certificate(self) -> bytes:
        """What the other side showed, DER."""
        found: bytes | None = self.writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        assert found is not None
        return found

    async def send(self, *lines: str, body: bytes = b"") -> None:
        """A request: its lines, and a body."""
        self.writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1") + body)
        await self.writer.drain()

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        """Status and headers of the next answer, as spelled."""
        async with asyncio.timeout(PATIENCE):
            first, *rest = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in rest)]
        return int(first.split()[1]), headers

    async def ask(self, *lines: str) -> tuple[int, list[tuple[str, str]], bytes]:
        """A request without a body, and its answer with one."""
        await self.send(*lines)
        status, headers = await self.head()
        length = next((int(value) for name, value in headers if name.lower() == "content-length"), 0)
        async with asyncio.timeout(PATIENCE):
            return status, headers, await self.reader.readexactly(length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A replica that serves a configuration, and somebody in front of it."""

    world: World
    replica: ReplicaAt
    visitor: Visitor

    async def apply(self, *routes: str, settings: str = "", options: tuple[str, ...] = ()) -> None:
        """Another configuration; returns when it is in force."""
        await self.put(self.world.config(*routes, settings=settings), *options)

    async def put(self, config: str, *options: str) -> None:
        """The same, for the text of a whole file."""
        before = await self._in_force()
        await self.world.cluster.apply(config, *options)

        async def changed() -> bool:
            return await self._in_force() != before

        await eventually("the new configuration is in force", changed)

    async def counters(self) -> Counter[str]:
        """How many resources of each kind went to Envoy."""
        found = (await self.replica.status())["ads"]
        assert isinstance(found, dict)
        return Counter(found)

    async def faults(self) -> list[dict[str, Any]]:
        """What the replica says is wrong with its configuration."""
        config = (await self.replica.status())["config"]
        assert isinstance(config, dict)
        found: list[dict[str, Any]] = config["faults"]
        return found

    async def envoy_stats(self, *names: str) -> dict[str, int]:
        """Counters and gauges of Envoy."""
        connector = aiohttp.UnixConnector(path=str(self.replica.directory / "envoy-admin.sock"))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get("http://envoy/stats", params={"format": "json"}) as response,
        ):
            stats = (await response.json(content_type=None))["stats"]
        return {stat["name"]: stat["value"] for stat in stats if stat.get("name") in names}

    async def access_log(self, entries: int) -> list[dict[str, Any]]:
        """One entry per request, once so many of them are written."""
        found: list[dict[str, Any]] = []

        async def written() -> bool:
            text = await asyncio.to_thread(self.replica.running.log.read_text)
            lines = (json.loads(line) for line in text.splitlines() if line.startswith('{"') and line.endswith("}"))
            found[:] = [line for line in lines if line.get("event") == "http-request"]
            return len(found) >= entries

        await eventually(f"{entries} requests are in the log", written)
        return found

    async def _in_force(self) -> str:
        config = (await self.replica.status())["config"]
        assert isinstance(config, dict)
        return str(config["in_force"])


@asynccontextmanager
async def on_stage(
    *routes: str, settings: str = "", environment: Mapping[str, str] | None = None
) -> AsyncIterator[Stage]:
    """A console, one replica that serves these routes, and a visitor who trusts the cluster's CA."""
    async with open_world() as world:
        await world.apply(*routes, settings=settings)
        async with world.cluster.replica(environment=environment) as replica, visit(world, replica) as visitor:
            yield Stage(world=world, replica=replica, visitor=visitor)


@asynccontextmanager
async def visit(world: World, replica: ReplicaAt) -> AsyncIterator[Visitor]:
    """A visitor for as long as the block lasts."""
    context = ssl.create_default_context(cafile=str(world.cluster.ca_file))
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=PATIENCE),
    ) as client:
        yield Visitor(domain=world.domain, port=replica.port, ca_file=world.cluster.ca_file, client=client)
