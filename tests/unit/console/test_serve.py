"""Serving: what is refused before anybody may call, and what happens beside the answers."""

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import grpc
import pytest

from pomerium_agent.console.ca import LEAF_LIFE, RENEW_BEFORE, authority, issue
from pomerium_agent.console.server import RENEW_EVERY, ServeOptions, serve_console
from pomerium_agent.console.store import open_store
from pomerium_agent.errors import SettingsError
from pomerium_agent.pb.pomerium import connect_pb2, connect_pb2_grpc
from tests.fakes.clock import ManualClock
from tests.fakes.console import serve_options, visited_console


async def refusal(options: ServeOptions) -> str:
    with pytest.raises(SettingsError) as refused:
        async with serve_console(options):
            pass
    return str(refused.value)


async def test_one_data_directory_has_one_console(tmp_path: Path) -> None:
    async with serve_console(serve_options(tmp_path)):
        assert "another console already serves" in await refusal(serve_options(tmp_path))

    async with serve_console(serve_options(tmp_path)):
        pass


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    async with serve_console(serve_options(tmp_path / "one")) as console:
        api = console.cluster_api.removeprefix("http://").removesuffix("/cluster/v1")
        connect = console.connect.removeprefix("http://")

        assert f"--address: cannot listen on {api}" in await refusal(serve_options(tmp_path / "two", address=api))
        assert f"--grpc-address: cannot listen on {connect}" in await refusal(
            serve_options(tmp_path / "two", grpc_address=connect)
        )


@pytest.mark.parametrize("address", ["0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:0"])
async def test_tokens_do_not_travel_in_the_clear_by_accident(tmp_path: Path, address: str) -> None:
    assert "tokens would travel in the clear" in await refusal(serve_options(tmp_path, address=address))


@pytest.mark.parametrize("address", ["", "8700", "localhost", "a:b", "127.0.0.1:70000"])
async def test_an_address_that_is_none_is_refused(tmp_path: Path, address: str) -> None:
    assert "--address" in await refusal(serve_options(tmp_path, address=address))


async def test_half_a_key_pair_is_refused(tmp_path: Path) -> None:
    assert "belong together" in await refusal(serve_options(tmp_path, tls_cert=tmp_path / "cert.pem"))
    assert "--tls-cert" in await refusal(serve_options(tmp_path, tls_cert=tmp_path / "none", tls_key=tmp_path / "none"))


async def test_with_a_certificate_everything_is_tls(tmp_path: Path) -> None:
    cert, key, ca = (tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem"))
    now = datetime.now(UTC)  # a real TLS client looks at the real clock
    with open_store(tmp_path / "issuer") as store:
        issued = issue(authority(store, now), ("localhost", "127.0.0.1"), now)
        ca.write_text(authority(store, now).chain)
    cert.write_text(issued.chain)
    key.write_text(issued.key)

    async with serve_console(serve_options(tmp_path / "data", tls_cert=cert, tls_key=key)) as console:
        trust = ssl.create_default_context(cafile=str(ca))
        async with aiohttp.ClientSession() as http, http.get(f"{console.cluster_api}/bundles", ssl=trust) as answer:
            assert answer.status == 401
        credentials = grpc.ssl_channel_credentials(ca.read_bytes())
        async with grpc.aio.secure_channel(console.connect.removeprefix("https://"), credentials) as channel:
            call = connect_pb2_grpc.ConnectStub(channel).Subscribe(connect_pb2.SubscribeRequest(), timeout=5)
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_certificate_about_to_expire_is_renewed_and_replicas_are_told(tmp_path: Path) -> None:
    clock = ManualClock()
    async with visited_console(tmp_path, clock=clock) as visit:
        await clock.until_sleeping(4)
        clock.jump((LEAF_LIFE - RENEW_BEFORE).total_seconds())

        async with visit.subscribed(await visit.bearer()) as call:
            await clock.advance(RENEW_EVERY.total_seconds())
            async with asyncio.timeout(5):
                message = await call.read()

    assert isinstance(message, connect_pb2.Message)
    assert message.config_updated.changeset_version == 2


async def test_who_is_connected_is_seen_every_minute(tmp_path: Path) -> None:
    """So that after a crash of the console `last seen` is about right."""
    clock = ManualClock()
    async with visited_console(tmp_path, clock=clock) as visit, visit.subscribed(await visit.bearer()):
        await visit.console.presence.written()
        await clock.until_sleeping(4)
        store = visit.console.store
        before = store.sightings.replicas(visit.cluster.id)[0].last_seen

        await asyncio.to_thread(store.sightings.still_there, clock.now() + timedelta(minutes=1))

        assert store.sightings.replicas(visit.cluster.id)[0].last_seen == before + timedelta(minutes=1)


async def test_stopping_leaves_no_socket_and_open_streams_do_not_hold_it_up(tmp_path: Path) -> None:
    async with asyncio.timeout(10), visited_console(tmp_path) as visit:
        bearer = await visit.bearer()
        stream = visit.subscribed(bearer)
        await stream.__aenter__()
    await stream.__aexit__(None, None, None)

    assert not (tmp_path / "console.sock").exists()


async def test_cancelling_a_console_ends_it(tmp_path: Path) -> None:
    ready = asyncio.Event()

    async def run() -> None:
        async with serve_console(serve_options(tmp_path)):
            ready.set()
            await asyncio.Event().wait()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        task = group.create_task(run())
        await ready.wait()
        task.cancel()

    assert task.cancelled()
    async with serve_console(serve_options(tmp_path)):
        pass
