"""Who may call the databroker, from where, and over what (databroker 2)."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pomerium_agent.databroker import MemoryBackend
from pomerium_agent.databroker.service import Listener, Service, serve_databroker
from pomerium_agent.databroker.service.token import make_token, sign
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from tests.contract.stores import SOON, session
from tests.fakes.clock import ManualClock
from tests.fakes.databroker_wire import METHODS, wire_client
from tests.fakes.private_ca import PrivateCa
from tests.fakes.remote_backend import FAR_AWAY, KEY, LOOPBACK, served
from tests.unit.databroker.wire import refusal

Code = grpc.StatusCode
NOBODY = 65534
GOOD = sign(KEY, FAR_AWAY)


@asynccontextmanager
async def serving(
    listener: Listener | None = LOOPBACK, *, key: bytes = KEY
) -> AsyncIterator[tuple[Service, Path, ManualClock]]:
    """A service with one record, the path of its socket, and its clock."""
    clock = ManualClock()
    backend = MemoryBackend(clock)
    await backend.put([session("ada")])
    with TemporaryDirectory(prefix="db-") as name:
        path = Path(name) / "databroker.sock"
        async with served(backend, clock, listener=listener, key=key, path=path) as service:
            yield service, path, clock


async def _port(service: Service, fits: Callable[[int], bool]) -> int:
    async with asyncio.timeout(SOON):
        async for port in service.port.follow():
            if fits(port):
                return port
    raise AssertionError("a Latest never ends")


@pytest.mark.parametrize("method", [line.split()[:2] for line in METHODS.strip().splitlines()], ids="/".join)
async def test_no_call_is_answered_to_who_shows_no_token(method: list[str]) -> None:
    """D-2."""
    async with serving() as (service, _, _), wire_client(f"127.0.0.1:{service.port.value}", str) as wire:
        call: Any = wire.channel.unary_unary("/" + "/".join(method))

        assert await refusal(call(b"")) == (Code.UNAUTHENTICATED, "unauthenticated")


async def test_a_token_of_another_secret_or_time_or_content_is_invalid() -> None:
    """D-2: on TCP, and on the socket as well, once it is shown."""
    async with serving() as (service, path, clock):
        over = make_token(KEY, clock.now() - timedelta(hours=1, seconds=1))
        for target in (f"127.0.0.1:{service.port.value}", f"unix:{path}"):
            for wrong in (sign(bytes(32), FAR_AWAY), over, "nonsense", GOOD + "x"):
                async with wire_client(target, lambda wrong=wrong: wrong) as wire:  # type: ignore[misc]
                    assert await refusal(wire.call("Get")) == (Code.UNAUTHENTICATED, "invalid JWT")
                    assert await refusal(wire.call("SyncLatest")) == (Code.UNAUTHENTICATED, "invalid JWT")


async def test_the_first_token_counts() -> None:
    """D-2."""
    async with serving() as (service, _, _), wire_client(f"127.0.0.1:{service.port.value}", str) as wire:
        call: Any = wire.channel.unary_unary("/databroker.DataBrokerService/ServerInfo")

        await call(b"", metadata=(("jwt", GOOD), ("jwt", "nonsense")))
        assert (await refusal(call(b"", metadata=(("jwt", "nonsense"), ("jwt", GOOD)))))[0] is Code.UNAUTHENTICATED


async def test_without_a_shared_secret_nobody_comes_in_by_tcp() -> None:
    """Databroker 2: an empty key must not switch the check off."""
    async with serving(key=b"") as (service, _, _):
        for token in ("", sign(b"", FAR_AWAY)):
            async with wire_client(f"127.0.0.1:{service.port.value}", lambda token=token: token) as wire:  # type: ignore[misc]
                assert await refusal(wire.call("ServerInfo")) == (Code.UNAVAILABLE, "no shared key defined")


async def test_what_a_stranger_sends_is_not_even_read() -> None:
    """D-2: a message that could not be taken is refused for want of a token, not for what it is."""
    async with serving() as (service, _, _), wire_client(f"127.0.0.1:{service.port.value}", str) as wire:
        call: Any = wire.channel.unary_unary("/databroker.DataBrokerService/Put")

        assert (await refusal(call(b"\xff" * 100)))[0] is Code.UNAUTHENTICATED


async def test_whoever_can_open_the_socket_needs_no_token_and_may_show_a_good_one() -> None:
    async with serving(None) as (_, path, _):
        for token in ("", GOOD):
            async with wire_client(f"unix:{path}", lambda token=token: token) as wire:  # type: ignore[misc]
                assert (await wire.call("ServerInfo")).latest_record_version == 1


async def test_the_socket_is_for_our_user_alone_and_goes_with_the_service() -> None:
    """Whatever the umask of the process: it has its mode before it has its place."""
    before = os.umask(0)
    try:
        async with serving(None) as (_, path, _):
            found = path.lstat()
            assert stat.S_ISSOCK(found.st_mode)
            assert stat.S_IMODE(found.st_mode) == 0o600
            assert [each.name for each in path.parent.iterdir()] == ["databroker.sock"]
    finally:
        os.umask(before)
    assert not path.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_another_user_cannot_open_the_socket() -> None:
    async with serving(None) as (_, path, _):
        path.parent.chmod(0o755)
        os.seteuid(NOBODY)
        try:
            with socket.socket(socket.AF_UNIX) as stranger, pytest.raises(PermissionError):
                stranger.connect(str(path))
        finally:
            os.seteuid(0)


async def test_a_service_that_ends_late_leaves_the_socket_of_the_next_one_alone() -> None:
    clock = ManualClock()
    with TemporaryDirectory(prefix="db-") as name:
        path = Path(name) / "databroker.sock"
        async with served(MemoryBackend(clock), clock, listener=None, path=path):
            next_one = served(MemoryBackend(clock), clock, listener=None, path=path)
            await next_one.__aenter__()
        async with wire_client(f"unix:{path}", str) as wire:
            await wire.call("ServerInfo")
        await next_one.__aexit__(None, None, None)


async def test_with_certificates_tcp_speaks_tls_and_nothing_else() -> None:
    """The secret of the cluster is proven, but the records are not for everybody on the way."""
    ca = PrivateCa("ours")
    issued, other = ca.issue("db.example"), ca.issue("other.example")
    listener = Listener(
        host="127.0.0.1",
        port=0,
        certificates=tuple((each.certificate.decode(), each.key.decode()) for each in (issued, other)),
    )
    assert "PRIVATE" not in repr(listener)
    async with serving(listener) as (service, _, _):
        target = f"127.0.0.1:{service.port.value}"
        trust = grpc.ssl_channel_credentials(ca.pem)
        for name in ("db.example", "other.example"):
            options = {"grpc.ssl_target_name_override": name}
            async with wire_client(target, lambda: GOOD, credentials=trust, options=options) as wire:
                assert (await wire.call("ServerInfo")).latest_record_version == 1
            async with wire_client(target, str, credentials=trust, options=options) as wire:
                assert (await refusal(wire.call("ServerInfo")))[0] is Code.UNAUTHENTICATED
        async with wire_client(target, lambda: GOOD) as wire:
            assert (await refusal(wire.call("ServerInfo")))[0] is Code.UNAVAILABLE


async def test_the_address_can_change_and_go_away_while_the_service_runs() -> None:
    clock = ManualClock()
    wanted: Latest[Listener | None] = Latest(None)
    health = Health()
    with TemporaryDirectory(prefix="db-") as name:
        async with serve_databroker(
            MemoryBackend(clock),
            key=KEY,
            socket_path=Path(name) / "s",
            wanted=wanted,
            clock=clock,
            health=health,
        ) as service:
            wanted.set(LOOPBACK)
            first = await _port(service, lambda port: port != 0)
            wanted.set(None)
            await _port(service, lambda port: port == 0)
            async with wire_client(f"127.0.0.1:{first}", lambda: GOOD) as wire:
                assert (await refusal(wire.call("ServerInfo")))[0] is Code.UNAVAILABLE
            with socket.create_server(("127.0.0.1", 0)) as taken:
                wanted.set(Listener(host="127.0.0.1", port=taken.getsockname()[1]))
                async for report in health.follow():
                    if report.error:
                        break
                assert report.check == Check.DATABROKER_SERVICE
                assert "GRPC_ADDRESS" in report.error
                wanted.set(None)
                async for report in health.follow():
                    if not report.error:
                        break
            wanted.set(LOOPBACK)
            second = await _port(service, lambda port: port != 0)
            async with wire_client(f"127.0.0.1:{second}", lambda: GOOD) as wire:
                await wire.call("ServerInfo")


async def test_health_needs_no_token_and_knows_its_services() -> None:
    """Databroker 1."""
    async with serving() as (service, _, _), wire_client(f"127.0.0.1:{service.port.value}", str) as wire:
        stub = wire.stub(health_pb2_grpc.HealthStub)
        for name in ("", "databroker.DataBrokerService", "registry.Registry"):
            request = health_pb2.HealthCheckRequest(service=name)
            assert (await stub.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
            assert (await stub.Watch(request).read()).status == health_pb2.HealthCheckResponse.SERVING
        unknown = health_pb2.HealthCheckRequest(service="nobody")
        assert (await refusal(stub.Check(unknown)))[0] is Code.NOT_FOUND
        assert (await stub.Watch(unknown).read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
