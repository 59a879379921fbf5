"""Envoys without an agent: the upstream of every measurement, and the bare proxy that ours is compared with."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from pomerium_agent.demo.playground import free_port
from pomerium_agent.demo.processes import stop
from pomerium_agent.envoy.binary import envoy_binary
from pomerium_agent.errors import SettingsError

TYPE = "type.googleapis.com/"
READY_SECONDS = 20.0
LOG_SHOWN = 2000  # characters


@asynccontextmanager
async def run_envoy(directory: Path, name: str, resources: Mapping[str, object]) -> AsyncIterator[int]:
    """Run a statically configured Envoy with one worker; yields its pid once it listens."""
    config = directory / f"{name}.json"
    config.write_text(json.dumps({"static_resources": resources}))
    log = directory / f"{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(envoy_binary(None)),
            "-c",
            str(config),
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
            stdout=output,
            stderr=output,
        )
    try:
        yield process.pid
    finally:
        await stop(process)


async def until_listening(port: int, log: Path | None = None) -> None:
    """Return when something accepts connections on the port; SettingsError has the end of `log` otherwise."""
    try:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return
    except TimeoutError as error:
        said = await asyncio.to_thread(log.read_text, errors="replace") if log else "nothing was kept of what it said"
        raise SettingsError(f"nobody listens on port {port}:\n{said[-LOG_SHOWN:]}") from error


def listener(name: str, port: int, action: Mapping[str, object], tls: Mapping[str, str] | None = None) -> object:
    """A listener with one route for everything."""
    manager = {
        "@type": TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, **action}]}]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": TYPE + "envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    chain: dict[str, object] = {
        "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    }
    if tls:
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": TYPE + "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_certificates": [
                        {
                            "certificate_chain": {"inline_string": tls["chain"]},
                            "private_key": {"inline_string": tls["key"]},
                        }
                    ],
                },
            },
        }
    return {
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [chain],
    }


@asynccontextmanager
async def run_upstream(directory: Path) -> AsyncIterator[int]:
    """An Envoy that answers everything with five bytes; yields its port. It is never what limits a measurement."""
    port = free_port()
    action = {"direct_response": {"status": 200, "body": {"inline_string": "hello"}}}
    async with run_envoy(directory, "upstream", {"listeners": [listener("upstream", port, action)]}):
        await until_listening(port, directory / "upstream.log")
        yield port


@asynccontextmanager
async def run_bare(directory: Path, upstream: int, tls: Mapping[str, str]) -> AsyncIterator[tuple[int, int]]:
    """Envoy alone, TLS in front and the upstream behind; yields its port and pid."""
    port = free_port()
    cluster = {
        "name": "upstream",
        "connect_timeout": "10s",
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}}
                    ]
                }
            ],
        },
    }
    resources = {
        "listeners": [listener("bare", port, {"route": {"cluster": "upstream"}}, tls)],
        "clusters": [cluster],
    }
    async with run_envoy(directory, "bare", resources) as pid:
        await until_listening(port, directory / "bare.log")
        yield port, pid
