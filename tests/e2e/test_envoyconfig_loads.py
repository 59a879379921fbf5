"""Whatever we tell Envoy, the pinned Envoy takes it (R-32)."""

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pomerium_agent.config.snapshot import Address, ConfigSnapshot
from pomerium_agent.envoy.binary import envoy_binary
from tests.fakes.golden import Case, cases, compiled, resources_of
from tests.fakes.static_envoy import running_envoy, static_bootstrap

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.path.stem)
async def test_envoy_takes_every_golden_case(case: Case, tmp_path: Path) -> None:
    snapshot, _ = compiled(case.document)
    path = tmp_path / "bootstrap.json"
    path.write_text(json.dumps(static_bootstrap(resources_of(snapshot, str(tmp_path)), tmp_path)))

    process = await asyncio.create_subprocess_exec(
        *(envoy_binary(None), "--mode", "validate", "-c", str(path), "--log-level", "warning"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()

    assert process.returncode == 0, said.decode()
    assert b"eprecated" not in said  # nothing that the next Envoy will have dropped


async def test_envoy_serves_all_golden_cases_together(tmp_path: Path, free_port: Callable[[], int]) -> None:
    by_id = {route["id"]: route for case in cases() for route in case.document.get("routes", [])}
    [first, *_] = cases()
    snapshot, _ = compiled({"settings": first.document["settings"], "routes": list(by_id.values())})
    bound = dataclasses.replace(snapshot.settings, address=Address(host="127.0.0.1", port=free_port()))
    snapshot = ConfigSnapshot(settings=bound, routes=snapshot.routes)

    async with running_envoy(resources_of(snapshot, str(tmp_path)), tmp_path) as envoy:
        clusters = await envoy.ask_admin("/clusters")

    assert len(by_id) > 15
    assert all(f"route-{id}::" in clusters for id in ("r1", "r3", "r10", "r11", "r14"))


async def test_what_envoy_says_is_one_json_object_a_line(tmp_path: Path, free_port: Callable[[], int]) -> None:
    snapshot, _ = compiled({"settings": {"address": f"127.0.0.1:{free_port()}"}})

    async with running_envoy(resources_of(snapshot, str(tmp_path)), tmp_path) as envoy:
        pass

    lines = [json.loads(line) for line in envoy.said]
    assert all(set(line) == {"time", "level", "event", "service", "logger"} for line in lines)
    assert {line["service"] for line in lines} == {"envoy"}
    assert not [line for line in lines if line["level"] in ("warning", "error") and "SIGTERM" not in line["event"]]
