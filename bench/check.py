"""What one ext_authz check costs: our server against grpc.aio, the same handler in both, no Envoy between."""

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench.kernel import cpu_seconds
from bench.load import median
from bench.report import Column, Section
from pomerium_agent.authorize import frames
from pomerium_agent.authorize.frames import Kind, Setting, frame
from pomerium_agent.demo.processes import stop
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse

AT_ONCE = 32
PATIENCE = 20.0
KINDS = {"ours": "authorize/h2", "grpc": "grpc.aio"}


async def bench_check(directory: Path, rounds: int, seconds: float, say: Callable[[str], None]) -> Section:
    """Rounds are taken in turn. The load generator has the other core to itself, or shares; CPU time does not care."""
    costs: dict[str, list[float]] = {kind: [] for kind in KINDS}
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for kind in KINDS:
            path = directory / f"{kind}{number}.sock"
            async with run_server(kind, path) as pid:
                cpu, count, took = await ask_checks(path, pid, seconds, itertools.repeat(question()))
            costs[kind].append(1e6 * cpu / count)
            rates[kind].append(count / took)
    return Section(
        name="check",
        title=f"ext_authz checks straight into the server, {AT_ONCE} at a time on one connection",
        columns=(
            Column("server", ""),
            Column("CPU µs/check"),
            Column("checks/s per core", ".0f"),
            Column("seen/s", ".0f"),
        ),
        rows=[
            [name, median(costs[kind]), 1e6 / median(costs[kind]), median(rates[kind])] for kind, name in KINDS.items()
        ],
        ratios={
            "CPU per check, grpc.aio/ours": median(
                [theirs / ours for ours, theirs in zip(costs["ours"], costs["grpc"], strict=True)]
            )
        },
        notes=(
            "the question is one of the cheapest, a page of the agent's own, and nothing is logged: this compares the",
            "servers; what a check costs in all is in decide and authz. checks/s per core: what CPU per check allows.",
        ),
    )


def question() -> bytes:
    """A CheckRequest of the usual kind: a browser with a session cookie."""
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.host, http.path, http.scheme = "GET", "app.bench.localhost", "/.pomerium/", "https"
    http.headers.update(
        {
            ":authority": http.host,
            ":path": http.path,
            "cookie": "_pomerium=" + "s" * 300,
            "user-agent": "Mozilla/5.0 (X11; Linux x86_64) bench",
            "accept": "text/html,application/xhtml+xml",
            "x-request-id": "0e6f8b3c-7d1f-4b51-9b6d-2f0c3a2f9d11",
        }
    )
    request.attributes.context_extensions.update({"route_id": "r1", "internal": "true"})
    return request.SerializeToString()


@asynccontextmanager
async def run_server(kind: str, path: Path) -> AsyncIterator[int]:
    """One of the servers of `check_server`; its pid."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.check_server", kind, str(path))
    try:
        yield process.pid
    finally:
        await stop(process)


async def ask_checks(path: Path, pid: int, seconds: float, questions: Iterator[bytes]) -> tuple[float, int, float]:
    """CPU seconds of the server, checks, and how long it took; the first tenth is warming up and does not count.

    It ends earlier when there are no more questions. Raises ConnectionError when the last answer is not yes.
    """
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(path))
                break
            except OSError:
                await asyncio.sleep(0.02)
    client = _Client(writer, questions)
    try:
        await client.ask(reader, seconds / 10)
        cpu, began = cpu_seconds(pid), time.perf_counter()
        count = await client.ask(reader, seconds)
        cpu, took = cpu_seconds(pid) - cpu, time.perf_counter() - began
        client.check_allowed()
        return cpu, count, took
    finally:
        writer.close()


class _Client:
    """Just enough HTTP/2 and gRPC to ask one question after the other."""

    def __init__(self, writer: asyncio.StreamWriter, questions: Iterator[bytes]) -> None:
        self._writer = writer
        self._stream = 1
        self._answers = 0
        self._questions = questions
        self._last = b""  # answer
        writer.write(
            frames.PREFACE
            + frames.settings({Setting.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW, Setting.ENABLE_PUSH: 0})
            + frames.window_update(0, frames.LARGEST_WINDOW - frames.DEFAULT_WINDOW)
        )

    async def ask(self, reader: asyncio.StreamReader, seconds: float) -> int:
        """Keep AT_ONCE checks under way for so long, then wait for the last of them; how many there were."""
        end = time.perf_counter() + seconds
        under_way, done = sum(self._send() for _ in range(AT_ONCE)), 0
        buffer = bytearray()
        while under_way:
            piece = await reader.read(1 << 16)
            if not piece:
                raise ConnectionError("the server closed the connection")
            buffer += piece
            ended = self._read(buffer)
            done += ended
            under_way -= ended
            if time.perf_counter() < end:
                under_way += sum(self._send() for _ in range(ended))
            await self._writer.drain()
        if self._answers < done:
            raise ConnectionError(f"{done - self._answers} checks ended without an answer")
        self._answers = 0
        return done

    def check_allowed(self) -> None:
        """Only who was let in measures what letting in costs."""
        if not CheckResponse.FromString(self._last[frames.GRPC_HEAD :]).HasField("ok_response"):
            raise ConnectionError("the check was denied")

    def _send(self) -> bool:
        """Ask the next question, if there is one."""
        body = next(self._questions, None)
        if body is None:
            return False
        head = (
            b"\x83\x86"  # :method POST, :scheme http
            + frames.literal(b":path", b"/envoy.service.auth.v3.Authorization/Check")
            + frames.literal(b":authority", b"bench")
            + frames.literal(b"content-type", b"application/grpc")
            + frames.literal(b"te", b"trailers")
        )
        self._writer.write(
            frame(Kind.HEADERS, frames.END_HEADERS, self._stream, head)
            + frame(Kind.DATA, frames.END_STREAM, self._stream, frames.grpc_message(body))
        )
        self._stream += 2
        return True

    def _read(self, buffer: bytearray) -> int:
        """Take whole frames off the buffer; how many calls ended with them."""
        ended = position = 0
        while len(buffer) - position >= frames.FRAME_HEAD:
            high, low, kind, flags, _ = frames.FRAME_FIELDS.unpack_from(buffer, position)
            after = position + frames.FRAME_HEAD + (high << 8 | low)
            if len(buffer) < after:
                break
            payload = bytes(buffer[position + frames.FRAME_HEAD : after])
            position = after
            if kind == Kind.SETTINGS and not flags & frames.ACK:
                self._writer.write(frame(Kind.SETTINGS, frames.ACK, 0))
            elif kind == Kind.PING and not flags & frames.ACK:
                self._writer.write(frame(Kind.PING, frames.ACK, 0, payload))
            elif kind in (Kind.GOAWAY, Kind.RST_STREAM):
                raise ConnectionError(f"the server ended a call: {payload!r}")
            elif kind == Kind.HEADERS and flags & frames.END_STREAM:
                if b"grpc-status" in payload and b"\x010" not in payload:
                    raise ConnectionError(f"a check failed: {payload!r}")
                ended += 1
            elif kind == Kind.DATA and payload:
                self._answers += 1
                self._last = payload
        del buffer[:position]
        return ended
