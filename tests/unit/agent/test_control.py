"""The control socket over a real unix socket: explanations, and who may ask for them."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from pomerium_agent.agent.board import Board
from pomerium_agent.agent.control import build_control_app, serve_control
from pomerium_agent.authorize.decide import Case, decide
from pomerium_agent.authorize.gather import Question
from pomerium_agent.authorize.rules import RouteRules
from pomerium_agent.cli.in_force import of_replica
from pomerium_agent.cli.status import ask as ask_replica
from pomerium_agent.config import Compiled
from pomerium_agent.config.compile import compile_snapshot
from pomerium_agent.config.snapshot import Access, ConfigSnapshot, Settings
from pomerium_agent.console.bundle import build_records
from pomerium_agent.console.ca import issue_starter
from pomerium_agent.console.clusters import create_cluster
from pomerium_agent.console.core_config import read_core_config
from pomerium_agent.console.diff import diff
from pomerium_agent.console.store import open_store
from pomerium_agent.envoyconfig.route import checksum
from pomerium_agent.errors import SettingsError
from pomerium_agent.policy import RouteRules as AllowFields
from pomerium_agent.policy import build_route_policy
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.runtime.health import Health
from tests.fakes.console import QUICKSTART
from tests.fakes.snapshots import route

POLICY, _ = build_route_policy(
    AllowFields(policies=('[{"allow": {"and": [{"groups": {"has": "engineers"}}]}}]',)), source="test"
)
WIKI = route("wiki", "https://wiki.example.com", access=Access(policy=POLICY))
AT = datetime(2030, 1, 1, 12, 0, tzinfo=UTC)


def board(*, offered: bool = True) -> Board:
    compiled = Compiled(ConfigSnapshot(settings=Settings(), routes=(WIKI,)))
    return Board(version="1", instance="i", health=Health(), keeper_pid=1, offered=compiled if offered else None)


def deny(at: Board, request_id: str) -> None:
    """Let a stranger's request be denied, as the checker would."""
    question = Question(
        {"x-request-id": request_id, "cookie": "secret"}, method="GET", host="wiki.example.com", raw_path="/a"
    )
    rules = RouteRules(id="wiki", checksum=checksum(WIKI), policy=POLICY)
    case = Case(question=question._replace(route_id="wiki"), route=rules, certificate_valid=True, now=AT)
    at.denials.add(case, decide(case))


@asynccontextmanager
async def serving(
    at: Board, directory: Path, health: socket.socket | None = None
) -> AsyncIterator[Callable[[object], Any]]:
    """The control socket of a replica, and a client that posts questions to it."""
    path = directory / "control.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(path))
        sock.listen()
        async with (
            serve_control(sock, at, health),
            aiohttp.ClientSession(
                "http://agent", connector=aiohttp.UnixConnector(str(path)), timeout=aiohttp.ClientTimeout(10)
            ) as client,
        ):

            async def ask(question: object) -> tuple[int, Any]:
                body = question if isinstance(question, bytes) else json.dumps(question).encode()
                async with client.post("/explain", data=body) as answer:
                    return answer.status, await answer.json()

            yield ask


async def test_a_described_request_is_explained(tmp_path: Path) -> None:
    async with serving(board(), tmp_path) as ask:
        status, told = await ask({"url": "https://wiki.example.com/", "user": "u1", "groups": ["sales"]})

    assert (status, told["decision"], told["route"]["id"]) == (200, "deny", "wiki")
    assert [each["value"] for each in told["change"]] == ["engineers"]


async def test_a_denial_is_explained_by_its_request_id(tmp_path: Path) -> None:
    here = board()
    deny(here, "id-7")

    async with serving(here, tmp_path) as ask:
        status, told = await ask({"request_id": "id-7"})

    assert (status, told["decision"], told["then"]["decision"]) == (200, "login", "login")
    assert (told["request"]["path"], told["note"]) == ("/a", "")
    assert "secret" not in json.dumps(told)


async def test_a_denial_that_is_not_remembered_says_which_are(tmp_path: Path) -> None:
    here = board()

    async with serving(here, tmp_path) as ask:
        never = await ask({"request_id": "id-9"})
        deny(here, "id-7")
        deny(here, "id-8")
        since = await ask({"request_id": "id-9"})

    assert never[0] == since[0] == 404
    assert "has denied nothing since its agent started" in never[1]["error"]
    assert "the last 2 denials of this replica, since 2030-01-01T12:00:00+00:00" in since[1]["error"]


async def test_denials_are_listed_without_queries(tmp_path: Path) -> None:
    here = board()
    deny(here, "id-7")
    deny(here, "id-8")

    async with serving(here, tmp_path):
        told = await asyncio.to_thread(ask_replica, tmp_path / "control.sock", "/denials")

    assert told["denied"] == 2
    assert {each["request-id"] for each in told["latest"]} == {"id-7", "id-8"}
    assert [(each["kind"], each["status"], each["path"]) for each in told["latest"]] == [("login", 302, "/a")] * 2
    assert "secret" not in json.dumps(told)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ([], "not a JSON object"),
        ({}, "url: it is missing"),
        ({"request_id": 5}, "request_id"),
        ({"request_id": "id-7", "url": "https://a/"}, "request_id"),
    ],
)
async def test_a_question_that_makes_no_sense_is_answered_in_words(
    tmp_path: Path, question: object, words: str
) -> None:
    async with serving(board(), tmp_path) as ask:
        status, told = await ask(question)

    assert status == 400
    assert words in told["error"]


async def test_before_there_is_a_configuration_nothing_is_explained(tmp_path: Path) -> None:
    async with serving(board(offered=False), tmp_path) as ask:
        status, told = await ask({"url": "https://wiki.example.com/"})

    assert (status, told) == (503, {"error": "there is no configuration to explain yet"})


async def test_the_health_address_explains_nothing(tmp_path: Path) -> None:
    """Explanations name people; the address of probes may be open to a whole network."""
    listening = socket.create_server(("127.0.0.1", 0))
    async with (
        serving(board(), tmp_path, listening),
        aiohttp.ClientSession(f"http://127.0.0.1:{listening.getsockname()[1]}") as client,
        client.get("/healthz") as alive,
        client.post("/explain", json={"url": "https://wiki.example.com/"}) as answer,
    ):
        assert (alive.status, answer.status) == (200, 404)


async def test_the_health_address_answers_probes_and_nothing_else(tmp_path: Path) -> None:
    """Z-55: what was sent to the control plane, the sessions and the keys are for whoever may open the socket."""
    listening, at = socket.create_server(("127.0.0.1", 0)), board()
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    routes = [(route.method, route.resource) for route in build_control_app(at, SystemClock()).router.routes()]
    found: dict[str, bool] = {}
    async with serving(at, tmp_path, listening), aiohttp.ClientSession(f"http://{address}") as client:
        for method, resource in routes:
            path = resource.canonical.replace("{id}", "1") if resource else ""
            async with client.request(method, path) as answer:
                found[path] = found.get(path, False) or answer.status != 404

    assert "/telemetry" in found
    assert {path for path, answered in found.items() if answered} == {"/status", "/startupz", "/readyz", "/healthz"}


async def test_the_whole_configuration_is_told_for_export_and_comparison(tmp_path: Path) -> None:
    """Z-46: settings merged, every route; without what the console adds it is what an operator wrote."""
    config = read_core_config(QUICKSTART).config
    with open_store(tmp_path / "data") as store:
        starter = issue_starter(store, create_cluster(store, "demo", now=AT).cluster.id, "demo.example.com", AT)
    records = build_records(config, starter)
    snapshot, faults = compile_snapshot(records, now=AT)
    at = Board(version="1", instance="i", health=Health(), keeper_pid=1, offered=Compiled(snapshot, faults, records))

    async with serving(at, tmp_path):
        told = await asyncio.to_thread(of_replica, tmp_path / "control.sock")

    assert told.settings == config.settings
    assert {route.id: route for route in told.routes} == {route.id: route for route in config.routes}
    assert not diff(told, config)


async def test_without_a_configuration_there_is_none_to_tell(tmp_path: Path) -> None:
    async with serving(board(offered=False), tmp_path):
        with pytest.raises(SettingsError, match="was not told any configuration yet"):
            await asyncio.to_thread(of_replica, tmp_path / "control.sock")


async def test_before_there_is_a_link_nothing_was_sent(tmp_path: Path) -> None:
    async with serving(board(), tmp_path):
        with pytest.raises(SettingsError, match="has sent nothing yet"):
            await asyncio.to_thread(ask_replica, tmp_path / "control.sock", "/telemetry")
