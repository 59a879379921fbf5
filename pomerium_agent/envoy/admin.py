"""Envoy's admin interface, over its private unix socket."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from pomerium_agent.envoyconfig import envoy_log_level
from pomerium_agent.errors import EnvoyUnavailable

_TOTAL = re.compile(r"^http\.(?!admin\.|metrics\.)\S*downstream_rq_total: (\d+)\r?$", re.MULTILINE)
_LOGGER = re.compile(r"^\s+(\w+): \w+\s*$", re.MULTILINE)
VERBOSE = frozenset({"debug", "trace"})
WRITE_SECRETS = frozenset(
    {
        "client", "config", "credential_injector", "ext_authz", "ext_proc", "filter", "forward_proxy", "golang", "hc",
        "http", "http2", "jwt", "lua", "oauth2", "quic", "quic_stream", "router", "tap", "wasm",
    }
)  # fmt: skip
TIMEOUT = aiohttp.ClientTimeout(total=5.0)
SCRAPE_TIMEOUT = aiohttp.ClientTimeout(total=25.0)


class EnvoyAdmin:
    """Asks the running Envoy. Every call raises EnvoyUnavailable when nobody answers."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def live(self) -> bool:
        """Whether Envoy has finished its start and serves."""
        return (await self._ask("GET", "/ready")).strip() == "LIVE"

    async def set_log_level(self, level: str) -> None:
        """Change what Envoy logs, without a restart (R-23).

        Loggers that write whole headers or resources, with the cookies and keys in them, go no further than info.
        """
        wanted = envoy_log_level(level)
        if wanted not in VERBOSE:
            await self._ask("POST", f"/logging?level={wanted}")
            return
        loggers = _LOGGER.findall(await self._ask("POST", "/logging"))
        paths = ",".join(f"{name}:{'info' if name in WRITE_SECRETS else wanted}" for name in loggers)
        await self._ask("POST", f"/logging?paths={paths}")  # all at once: there is no moment with the others loud

    async def stats(self) -> str:
        """Everything Envoy counts, in the text format of Prometheus."""
        return await self._ask("GET", "/stats/prometheus")

    async def scrape(self, *, used_only: bool) -> bytes:
        """The same as it came, for passing on: with thousands of upstreams it is megabytes."""
        path = "/stats/prometheus" + ("?usedonly" if used_only else "")
        try:
            async with self._session.get(f"http://envoy{path}", timeout=SCRAPE_TIMEOUT) as response:
                return await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise EnvoyUnavailable(f"envoy's admin socket does not answer {path}: {error}") from error

    async def requests(self) -> int:
        """How many requests it has had since it began, those to its admin socket and for metrics aside."""
        found = await self._ask("GET", "/stats?filter=downstream_rq_total$")
        return sum(int(count) for count in _TOTAL.findall(found))

    async def _ask(self, method: str, path: str) -> str:
        if self._session.closed:  # whoever kept this client has not heard yet that Envoy is given up
            raise EnvoyUnavailable("envoy's admin socket is not open any more")
        try:
            async with self._session.request(method, f"http://envoy{path}") as response:
                return await response.text(errors="replace")  # names of others come in
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise EnvoyUnavailable(f"envoy's admin socket does not answer {path}: {error}") from error


@asynccontextmanager
async def open_admin(socket_path: Path) -> AsyncIterator[EnvoyAdmin]:
    """A client of the admin socket at `socket_path`; Envoy need not be there yet."""
    connector = aiohttp.UnixConnector(path=str(socket_path), force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT) as session:
        yield EnvoyAdmin(session)
