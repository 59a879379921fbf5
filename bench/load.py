"""A load generator of our own: keep-alive HTTP/1.1 over TLS, a fixed number of connections, one request at a time each.

It shares the machine with what it measures, so absolute figures mean little; ratios between runs of the same
generator, taken in turn, do. CPU time per request comes from the kernel's accounting and is the steadiest figure.
"""

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.kernel import cpu_seconds


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: requests per second, latencies in milliseconds, CPU of the watched process per request in µs."""

    rate: float
    p50: float
    p99: float
    cpu_us: float
    failures: int


async def measure(
    port: int, host: str, context: ssl.SSLContext, *, seconds: float, connections: int, watched_pid: int
) -> Measured:
    """Ask `https://host:port/` for `seconds`."""
    latencies: list[float] = []
    failures = 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal failures
        request = f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=host)
        try:
            while time.perf_counter() < end:
                began = time.perf_counter()
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(_content_length(head))
                latencies.append(time.perf_counter() - began)
                failures += not head.startswith(b"HTTP/1.1 200")
        finally:
            writer.close()

    cpu = cpu_seconds(watched_pid)
    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(client())
    cpu = cpu_seconds(watched_pid) - cpu
    ordered = sorted(latencies)
    return Measured(
        rate=len(ordered) / seconds,
        p50=1000 * quantile(ordered, 0.5),
        p99=1000 * quantile(ordered, 0.99),
        cpu_us=1e6 * cpu / len(ordered),
        failures=failures,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the sorted values lie."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return quantile(sorted(values), 0.5)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
