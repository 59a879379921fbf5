"""A load generator that costs little: HTTP/1.1 in the clear over kept connections, straight on asyncio's transports.

With TLS and streams the generator would use more of the machine than what it measures. Each request may be another one.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping

from bench.kernel import cpu_seconds
from bench.load import quantile

LENGTH = b"content-length: "


class Run:
    """One run under way: what is left to ask, and what was seen."""

    def __init__(self, requests: Iterator[bytes], status: int, end: float) -> None:
        self.requests = requests
        self.expected = f"HTTP/1.1 {status}".encode()
        self.end = end
        self.latencies: list[float] = []
        self.failures = 0
        self.first_failure = b""

    def next(self) -> bytes | None:
        """What to ask now; None: no more."""
        return next(self.requests, None) if time.perf_counter() < self.end else None

    def answered(self, head: bytes, took: float) -> None:
        self.latencies.append(took)
        if not head.startswith(self.expected):
            self.failures += 1
            self.first_failure = self.first_failure or head


class _Asker(asyncio.Protocol):
    """One connection: a request, its answer, the next one."""

    _transport: asyncio.Transport

    def __init__(self, run: Run) -> None:
        self._run = run
        self._buffer = b""
        self._began = 0.0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # TCP gives these
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        split = self._buffer.find(b"\r\n\r\n")
        if split < 0:
            return
        at = self._buffer.find(LENGTH, 0, split)
        length = int(self._buffer[at + len(LENGTH) : self._buffer.index(b"\r", at)]) if at >= 0 else 0
        if len(self._buffer) < split + 4 + length:
            return
        self._run.answered(self._buffer, time.perf_counter() - self._began)
        self._buffer = b""
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(f"the proxy closed a connection: {exc}"))

    def _ask(self) -> None:
        request = self._run.next()
        if request is None:
            if not self.done.done():
                self.done.set_result(None)
            self._transport.close()
            return
        self._began = time.perf_counter()
        self._transport.write(request)


async def ask_for(
    port: int,
    requests: Iterator[bytes],
    *,
    status: int,
    seconds: float,
    connections: int,
    watched: Mapping[str, int],
) -> dict[str, float]:
    """Ask until `seconds` have passed or nothing is left to ask.

    Gives `rate`, `p50` and `p99` in ms, `failures` (another status), and CPU in µs per request by the names of the
    watched processes. Raises ValueError when most answers were wrong, for then nothing was measured.
    """
    before = {name: cpu_seconds(pid) for name, pid in watched.items()}
    began = time.perf_counter()
    run = Run(requests, status, began + seconds)
    loop = asyncio.get_running_loop()
    askers = [(await loop.create_connection(lambda: _Asker(run), "127.0.0.1", port))[1] for _ in range(connections)]
    await asyncio.gather(*(asker.done for asker in askers))
    took = time.perf_counter() - began
    ordered = sorted(run.latencies)
    if not ordered or run.failures > len(ordered) / 2:
        raise ValueError(f"{run.failures} of {len(ordered)} answers were not {status}: {run.first_failure[:500]!r}")
    return {
        "rate": len(ordered) / took,
        "p50": 1000 * quantile(ordered, 0.5),
        "p99": 1000 * quantile(ordered, 0.99),
        "failures": run.failures,
        **{name: 1e6 * (cpu_seconds(pid) - before[name]) / len(ordered) for name, pid in watched.items()},
    }
