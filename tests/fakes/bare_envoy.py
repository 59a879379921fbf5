"""A real Envoy with a small static configuration, for tests of what stands beside it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pomerium_agent.envoy.binary import envoy_binary

ARGUMENTS = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "info")
TYPES = "type.googleapis.com/envoy.extensions"


@asynccontextmanager
async def envoy(configuration: dict[str, Any], directory: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run Envoy for the length of the block; it listens when the block begins."""
    path = directory / "envoy.json"
    path.write_text(json.dumps(configuration))
    process = await asyncio.create_subprocess_exec(
        envoy_binary(None),
        *ARGUMENTS,
        "-c",
        str(path),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stderr is not None
        said: list[bytes] = []
        async with asyncio.timeout(30):
            while b"starting main dispatch loop" not in (line := await process.stderr.readline()):
                assert line, b"".join(said).decode()
                said.append(line)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def pipe(path: Path) -> dict[str, Any]:
    return {"pipe": {"path": str(path), "mode": 0o600}}


def port(number: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": number}}


def cluster(name: str, address: dict[str, Any], *, http2: bool = False) -> dict[str, Any]:
    """A static cluster of one endpoint."""
    spoken: dict[str, Any] = {"http2_protocol_options": {}} if http2 else {"http_protocol_options": {}}
    options = {
        "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": spoken,
    }
    endpoint = {"lb_endpoints": [{"endpoint": {"address": address}}]}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [endpoint]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
    }


def bootstrap(
    admin: Path,
    listen: int,
    clusters: list[dict[str, Any]],
    routes: list[dict[str, Any]],
    filters: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """A whole configuration: one listener, one virtual host, an admin socket."""
    router = {"name": "router", "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"}}
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "main",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [*(filters or []), router],
    }
    chain = {"filters": [{"name": "manager", "typed_config": manager}]}
    return {
        "admin": {"address": pipe(admin)},
        "static_resources": {
            "listeners": [{"name": "main", "address": port(listen), "filter_chains": [chain]}],
            "clusters": clusters,
        },
    }


def ext_authz(cluster_name: str) -> dict[str, Any]:
    """The filter as our own configuration has it: gRPC, closed when it fails."""
    return {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": f"{TYPES}.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": {"envoy_grpc": {"cluster_name": cluster_name}, "timeout": "10s"},
            "status_on_error": {"code": 503},
        },
    }


def context(**extensions: str) -> dict[str, Any]:
    """What a route tells ext_authz about itself."""
    return {
        "envoy.filters.http.ext_authz": {
            "@type": f"{TYPES}.filters.http.ext_authz.v3.ExtAuthzPerRoute",
            "check_settings": {"context_extensions": extensions},
        }
    }
