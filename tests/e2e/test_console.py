"""The console as processes: what a `kill -9` leaves behind, and that verbs in other processes are heard at once."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import grpc
import pytest

from pomerium_agent.pb.pomerium import connect_pb2, connect_pb2_grpc
from tests.fakes.console import QUICKSTART

pytestmark = pytest.mark.e2e

MAIN = (sys.executable, "-m", "pomerium_agent", "console")


async def verb(data_dir: Path, *words: str) -> str:
    """Run one verb to its end; what it printed."""
    process = await asyncio.create_subprocess_exec(
        *MAIN, *words, "--data-dir", str(data_dir), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


@asynccontextmanager
async def serving(data_dir: Path, *options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, str]]]:
    """A console process, and what it says when it is ready."""
    process = await asyncio.create_subprocess_exec(
        *(*MAIN, "serve", "--data-dir", str(data_dir), *options), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            while True:
                said = json.loads(await process.stdout.readline())
                if said["event"] == "ready":
                    break
        yield process, said
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(10):
            await process.communicate()


async def exchange(api: str, token: str) -> str:
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{api}/exchangeToken", json={"refreshToken": token}) as answer,
    ):
        assert answer.status == 200
        return str((await answer.json())["idToken"])


async def told_version(connect: str, bearer: str, data_dir: Path, file: Path) -> int:
    """The version a connected replica hears of when `file` is applied in another process."""
    async with grpc.aio.insecure_channel(connect.removeprefix("http://")) as channel:
        call = connect_pb2_grpc.ConnectStub(channel).Subscribe(
            connect_pb2.SubscribeRequest(hostname="e2e"), metadata=(("authorization", f"Bearer {bearer}"),)
        )
        await call.initial_metadata()
        await verb(data_dir, "apply", "-f", str(file), "--cluster", "demo")
        async with asyncio.timeout(1):
            message = await call.read()
        call.cancel()
    assert isinstance(message, connect_pb2.Message)
    return message.config_updated.changeset_version


@pytest.mark.timeout(120)
async def test_a_killed_console_starts_again_and_the_next_apply_arrives(tmp_path: Path) -> None:
    token = json.loads(await verb(tmp_path, "cluster", "create", "demo", "--json"))["token"]
    other = tmp_path / "other.yaml"
    other.write_text("routes: []\n")
    free = ("--address", "127.0.0.1:0", "--grpc-address", "127.0.0.1:0")

    async with serving(tmp_path, *free) as (process, said):
        bearer = await exchange(said["cluster_api"], token)
        assert await told_version(said["connect"], bearer, tmp_path, QUICKSTART) == 2
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()
    places = ("--address", said["cluster_api"].split("/")[2], "--grpc-address", said["connect"].split("/")[2])
    async with serving(tmp_path, *places) as (process, again):
        assert again["cluster_api"] == said["cluster_api"]
        assert await told_version(again["connect"], bearer, tmp_path, other) == 3  # the bearer outlives the process
        status = json.loads(await verb(tmp_path, "status", "--json"))
        process.terminate()
        async with asyncio.timeout(10):
            assert await process.wait() == 0

    assert status["console_runs"]
    assert [each["hostname"] for each in status["clusters"][0]["replicas"]] == ["e2e"]


async def test_the_ready_file_is_written_whole(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    free = ("--address", "127.0.0.1:0", "--grpc-address", "127.0.0.1:0", "--ready-file", str(ready))

    async with serving(tmp_path / "data", *free) as (process, said):
        written = json.loads(ready.read_text())

    assert {"event": "ready"} | written == said
    assert written["pid"] == process.pid
    assert written["ca_file"] == str(tmp_path / "data" / "ca.pem")
