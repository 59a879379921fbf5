"""A playground for end-to-end tests: real console, real replicas, a real upstream, each opened in the test's body."""

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from pomerium_agent.demo.playground import Cluster, ReplicaAt, open_cluster, visitor
from pomerium_agent.demo.upstream import Upstream, serve_upstream

CLUSTER = "test"
PATIENCE = 30.0  # seconds that anything asynchronous may take on a busy machine


@dataclass(slots=True, kw_only=True)
class World:
    """One cluster with its console, an upstream, and a client that trusts the cluster's CA."""

    cluster: Cluster
    sample: Upstream
    client: aiohttp.ClientSession

    @property
    def upstream(self) -> int:
        return self.sample.port

    @property
    def domain(self) -> str:
        return self.cluster.domain

    def config(self, *routes: str, settings: str = "") -> str:
        """A configuration file: each route is YAML without the leading dash, with UPSTREAM and DOMAIN to fill in."""
        listed = "".join(f"  - {route.strip().replace(chr(10), chr(10) + '    ')}\n" for route in routes)
        filled = listed.replace("UPSTREAM", f"http://127.0.0.1:{self.upstream}").replace("DOMAIN", self.domain)
        return f"{settings}\nroutes:\n{filled}"

    async def apply(self, *routes: str, settings: str = "", options: tuple[str, ...] = ()) -> str:
        """`console apply` of these routes; what it printed."""
        return await self.cluster.apply(self.config(*routes, settings=settings), *options)

    async def console_status(self) -> str:
        """`console status`, as a person reads it."""
        return await self.cluster.verb("console", "status")

    def url(self, replica: ReplicaAt, host: str, path: str = "/") -> str:
        """Where `host` of the starter domain is served by `replica`."""
        return f"https://{host}.{self.domain}:{replica.port}{path}"

    async def get(self, replica: ReplicaAt, host: str, path: str = "/", **options: object) -> "Answer":
        """One request."""
        async with self.client.get(self.url(replica, host, path), allow_redirects=False, **options) as response:  # type: ignore[arg-type]  # whatever aiohttp takes
            return Answer(response.status, response.headers.copy(), await response.text())


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    def json(self) -> dict[str, object]:
        found = json.loads(self.text)
        assert isinstance(found, dict)
        return found


HELLO = """
from: https://hello.DOMAIN
to: UPSTREAM
allow_public_unauthenticated_access: true
"""


@asynccontextmanager
async def open_world() -> AsyncIterator[World]:
    """A console with one cluster, and nothing applied to it yet."""
    with tempfile.TemporaryDirectory(prefix="pa-") as name:  # short: unix socket paths may not be long
        async with (
            open_cluster(Path(name), CLUSTER) as cluster,
            serve_upstream() as upstream,
            visitor(cluster.ca_file) as client,
        ):
            yield World(cluster=cluster, sample=upstream, client=client)


async def eventually(what: str, probe: Callable[[], Awaitable[bool]], *, within: float = PATIENCE) -> None:
    """Return when `probe` says yes; failures to connect count as no. Fails the test, naming `what`, otherwise."""
    try:
        async with asyncio.timeout(within):
            while True:
                try:
                    if await probe():
                        return
                except (OSError, aiohttp.ClientError):
                    pass
                await asyncio.sleep(0.05)  # other processes: there is nothing to be woken by
    except TimeoutError:
        raise AssertionError(f"within {within:.0f} s it never came true that {what}") from None


def kill(pid: int) -> None:
    """kill -9."""
    os.kill(pid, signal.SIGKILL)
