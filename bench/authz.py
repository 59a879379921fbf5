"""Authorization through Envoy and straight into the socket: what a request costs by who asks for what."""

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import people
from bench.asker import ask_for
from bench.authz_server import ADMIN, ADS, AUTHORIZE, REVOKE
from bench.check import AT_ONCE, ask_checks, run_server
from bench.envoys import run_bare, run_upstream, until_listening
from bench.load import median
from bench.report import Cell, Column, Section
from pomerium_agent.demo.playground import free_port
from pomerium_agent.demo.processes import stop
from pomerium_agent.envoy.binary import envoy_binary
from pomerium_agent.envoyconfig import build_bootstrap, envoy_arguments
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest

CONNECTIONS = 16
PATIENCE = 60.0
REVOCATIONS = 20
NEW_PER_SECOND = 1500  # visitors for each second of never-seen-before requests; fewer seconds will do for them

BARE, PUBLIC, REPEAT, NEW, DENIED = "bare envoy", "public", "authorized, repeat", "authorized, never seen", "denied"
CASES = (BARE, PUBLIC, REPEAT, NEW, DENIED)
MEASURES = ("rate", "p50", "p99", "envoy", "agent", "failures")
CONSTANT = "constant answer"
SOCKET_CASES = (CONSTANT, "repeat", "never seen")
Say = Callable[[str], None]
Runs = Mapping[str, list[dict[str, float]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """Envoy with our configuration, and the process that answers it."""

    port: int
    directory: Path
    envoy_pid: int
    agent_pid: int
    route_id: str  # of the route that takes a session
    loop: str  # whose event loop the agent runs on
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def sign_out(self, number: int) -> float:
        """Delete that visitor's session; when that began, by time.monotonic()."""
        self.writer.write(f"{number}\n".encode())
        return float(await self.reader.readline())


async def bench_authz(directory: Path, rounds: int, seconds: float, say: Say) -> list[Section]:
    """Rounds are taken in turn, no TLS anywhere; each visitor who was never seen before asks once in the whole run."""
    # For each round through Envoy and into the socket, and the warming up of the latter.
    visitors = int(NEW_PER_SECOND * rounds * seconds * 2) + REVOCATIONS + 1
    numbers = iter(range(REVOCATIONS + 1, visitors))
    through: Runs = {case: [] for case in CASES}
    into: Runs = {case: [] for case in SOCKET_CASES}
    say(f"{visitors} visitors sign in")
    async with (
        run_upstream(directory) as upstream,
        run_bare(directory, upstream, {}) as (bare_port, bare_pid),
        _open_gate(directory, upstream, visitors) as gate,
        run_server("constant", directory / "constant.sock") as constant_pid,
    ):
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for case in CASES:
                port, envoy = (bare_port, bare_pid) if case == BARE else (gate.port, gate.envoy_pid)
                watched = {"envoy": envoy, "agent": gate.agent_pid}
                status = 403 if case == DENIED else 200
                through[case].append(
                    await ask_for(
                        port,
                        _requests(case, itertools.islice(numbers, int(NEW_PER_SECOND * seconds))),
                        status=status,
                        seconds=seconds,
                        connections=CONNECTIONS,
                        watched=watched,
                    )
                )
            for case in SOCKET_CASES:
                questions: Iterator[bytes] = itertools.repeat(_question(0, gate.route_id))
                if case == "never seen":
                    new = itertools.islice(numbers, int(NEW_PER_SECOND * seconds))
                    questions = iter([_question(number, gate.route_id) for number in new])
                path, pid = directory / AUTHORIZE, gate.agent_pid
                if case == CONSTANT:
                    path, pid = directory / "constant.sock", constant_pid
                cpu, count, took = await ask_checks(path, pid, seconds, questions)
                into[case].append({"agent": 1e6 * cpu / count, "rate": count / took})
        say("revocation")
        latencies = [await _revoked(gate, number) for number in range(1, REVOCATIONS + 1)]
    return [_through(through, gate.loop), _into(into, gate.loop), _revocation(latencies)]


def _requests(case: str, numbers: Iterator[int]) -> Iterator[bytes]:
    if case == NEW:  # made beforehand: to sign handles is not what is measured
        return iter([_request(people.PRIVATE, number, f"/new/{number}") for number in numbers])
    host = {PUBLIC: people.PUBLIC, DENIED: people.FORBIDDEN}.get(case, people.PRIVATE)
    return itertools.repeat(_request(host, 0, "/a/b?c=d"))


def _request(host: str, number: int, path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\nuser-agent: Mozilla/5.0 bench\r\n"
        f"cookie: theme=dark; _pomerium={people.handle(number)}\r\n\r\n"
    ).encode()


def _question(number: int, route_id: str) -> bytes:
    """What Envoy would ask of the request of that visitor; 0 is the one who comes again and again."""
    request = CheckRequest()
    attributes = request.attributes
    attributes.source.address.socket_address.address = "127.0.0.1"
    http = attributes.request.http
    http.method, http.scheme, http.host, http.path = "GET", "http", people.PRIVATE, f"/new/{number}"
    http.headers.update(
        {
            ":authority": http.host,
            ":path": http.path,
            ":method": "GET",
            ":scheme": "http",
            "accept": "application/json",
            "user-agent": "Mozilla/5.0 bench",
            "cookie": f"theme=dark; _pomerium={people.handle(number)}",
            "x-forwarded-proto": "http",
            "x-request-id": "0e6f8b3c-7d1f-4b51-9b6d-2f0c3a2f9d11",
        }
    )
    attributes.context_extensions.update({"route_id": route_id, "internal": "false"})
    return request.SerializeToString()


async def _revoked(gate: Gate, number: int) -> float:
    """Milliseconds from the deletion of a session to the first answer that is no, asked one after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
    request = _request(people.PRIVATE, number, "/a/b")
    try:
        if not await _let_in(reader, writer, request):
            raise ValueError(f"visitor {number} was not let in before the session was deleted")
        async with asyncio.TaskGroup() as group, asyncio.timeout(PATIENCE):
            put = group.create_task(gate.sign_out(number))
            while await _let_in(reader, writer, request):
                pass
            denied = time.monotonic()
            return 1000 * (denied - await put)
    finally:
        writer.close()


async def _let_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    headers = dict(line.partition(": ")[::2] for line in head.split("\r\n"))
    await reader.readexactly(int(headers.get("content-length", "0")))
    return head.startswith("http/1.1 200")


@asynccontextmanager
async def _open_gate(directory: Path, upstream: int, visitors: int) -> AsyncIterator[Gate]:
    port = free_port()
    with (directory / "agent.log").open("wb") as output:
        agent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.authz_server", str(directory), str(port), str(upstream), str(visitors)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=output,
        )
    try:
        await _until_there(directory / ADS, agent)
        bootstrap = directory / "gate.json"
        bootstrap.write_text(json.dumps(build_bootstrap(directory / ADMIN, directory / ADS)))
        envoy = await asyncio.create_subprocess_exec(
            *envoy_arguments(envoy_binary(None), bootstrap, concurrency=1),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await _until_there(directory / REVOKE, agent)
            await until_listening(port)
            reader, writer = await asyncio.open_unix_connection(str(directory / REVOKE))
            loop = (await reader.readline()).decode().strip()
            yield Gate(
                port=port,
                directory=directory,
                envoy_pid=envoy.pid,
                agent_pid=agent.pid,
                route_id=people.route_id(port, upstream),
                loop=loop,
                reader=reader,
                writer=writer,
            )
            writer.close()
        finally:
            await stop(envoy)
    finally:
        await stop(agent)


async def _until_there(path: Path, agent: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(path.exists):
            if agent.returncode is not None:
                raise ChildProcessError(await asyncio.to_thread((path.parent / "agent.log").read_text))
            await asyncio.sleep(0.05)


def _through(runs: Runs, loop: str) -> Section:
    def middle(case: str, of: str) -> float:
        return median([run[of] for run in runs[case]])

    def row(case: str) -> list[Cell]:
        failed = sum(int(run["failures"]) for run in runs[case])
        return [case, *(middle(case, of) for of in MEASURES[:-1]), failed]

    def ratio(case: str, of: str = "rate") -> float:
        """Round by round, then the middle one: what slowed a whole round down cancels out."""
        return median([ours[of] / bare[of] for ours, bare in zip(runs[case], runs[BARE], strict=True)])

    return Section(
        name="authz",
        title=f"requests through one worker of Envoy, {CONNECTIONS} connections, no TLS",
        columns=(
            Column("", ""),
            Column("req/s", ".0f"),
            Column("p50 ms", ".2f"),
            Column("p99 ms", ".2f"),
            Column("envoy µs/req", ".0f"),
            Column("agent µs/req", ".0f"),
            Column("failed", "d"),
        ),
        rows=[row(case) for case in CASES],
        ratios={
            **{f"requests per second, {case}/bare": ratio(case) for case in CASES[1:]},
            "envoy CPU per request, repeat/bare": ratio(REPEAT, "envoy"),
        },
        notes=(
            f"the agent runs on {loop}; generator, upstream, envoy and agent share the cores.",
            f"authorized: {people.CRITERIA} criteria, and a signed assertion goes to the upstream.",
            "to reach: repeat/bare at least 0.45, and agent µs at most 40 for repeat and 400 for never seen.",
        ),
    )


def _into(runs: Runs, loop: str) -> Section:
    found = {case: median([run["agent"] for run in runs[case]]) for case in SOCKET_CASES}
    return Section(
        name="authz-socket",
        title=f"the same checks straight into the socket, {AT_ONCE} at a time on one connection",
        columns=(
            Column("", ""),
            Column("agent µs/check"),
            Column("checks/s per core", ".0f"),
            Column("seen/s", ".0f"),
        ),
        rows=[[case, cost, 1e6 / cost, median([run["rate"] for run in runs[case]])] for case, cost in found.items()],
        ratios={
            "CPU per check, repeat/constant": found["repeat"] / found[CONSTANT],
            "CPU per check, never seen/repeat": found["never seen"] / found["repeat"],
        },
        notes=(
            f"the agent runs on {loop}. constant answer: the same server around a handler that does nothing, not even",
            "read the question or log; no check can cost less.",
        ),
    )


def _revocation(latencies: list[float]) -> Section:
    return Section(
        name="revocation",
        title="from the deletion of a session to the first request that is denied",
        columns=(Column("", ""), Column("median ms", ".2f"), Column("worst ms", ".2f")),
        rows=[[f"{len(latencies)} sessions", median(latencies), max(latencies)]],
    )
