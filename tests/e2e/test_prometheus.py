"""The alert rules and the dashboard in a real Prometheus, which scrapes a real replica over TLS with its password."""

import asyncio
import base64
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from pomerium_agent.demo.playground import free_port
from pomerium_agent.demo.processes import stop
from tests.e2e.world import HELLO, eventually, kill, open_world
from tests.fakes.private_ca import PrivateCa
from tests.fakes.promql import ALERTS, dashboard_queries

PROMETHEUS = shutil.which("prometheus")
USER, PASSWORD = "prometheus", "swordfish-scraper"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(120),
    pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus here: install the package of that name"),
]


@asynccontextmanager
async def serve_prometheus(target: str, authority: bytes) -> AsyncIterator[str]:
    """The address of its API: it scrapes `target` every second, and knows our rules as they are."""
    assert PROMETHEUS
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pa-") as name:
        directory = Path(name)
        await asyncio.to_thread((directory / "ca.pem").write_bytes, authority)
        await asyncio.to_thread((directory / "password").write_text, PASSWORD)
        scrape = {
            "job_name": "pomerium-agent",
            "scheme": "https",
            "params": {"usedonly": [""]},
            "basic_auth": {"username": USER, "password_file": str(directory / "password")},
            "tls_config": {"ca_file": str(directory / "ca.pem")},
            "static_configs": [{"targets": [target]}],
        }
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "scrape_configs": [scrape],
            "rule_files": [str(ALERTS)],
        }
        await asyncio.to_thread((directory / "prometheus.yml").write_text, yaml.safe_dump(config))
        with (directory / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                PROMETHEUS,
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                stdout=log,
                stderr=log,
            )
        try:
            yield f"http://127.0.0.1:{port}/api/v1"
        finally:
            await stop(process)


async def test_rules_and_dashboard_work_in_a_real_prometheus() -> None:
    """Every rule evaluates, every query of the dashboard has an answer, and what goes wrong becomes an alert."""
    ca = PrivateCa("metrics")
    certificate = ca.issue("127.0.0.1")
    metrics = f"127.0.0.1:{free_port()}"
    settings = {
        "metrics_address": metrics,
        "metrics_basic_auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(),
        "metrics_certificate": base64.b64encode(certificate.certificate).decode(),
        "metrics_certificate_key": base64.b64encode(certificate.key).decode(),
    }
    async with open_world() as world:
        await world.apply(HELLO, settings="\n".join(f"{name}: {value}" for name, value in settings.items()))
        async with (
            world.cluster.replica() as replica,
            serve_prometheus(metrics, ca.pem) as api,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as client,
        ):

            async def ask(path: str, **parameters: str) -> Any:
                async with client.get(f"{api}/{path}", params=parameters) as response:
                    if response.status == 503:  # it is only starting
                        response.raise_for_status()
                    said = json.loads(await response.text())
                assert said["status"] == "success", said
                return said["data"]

            async def scraped() -> bool:
                assert (await world.get(replica, "hello")).status == 200
                found = await ask("query", query="count_over_time(pomerium_build_info[1m])")
                return bool(found["result"]) and int(found["result"][0]["value"][1]) >= 3

            await eventually("it was scraped thrice", scraped)
            (target,) = (await ask("targets"))["activeTargets"]
            assert (target["health"], target["lastError"]) == ("up", "")

            for _, query in dashboard_queries():
                await ask("query", query=query.replace("$job", ".+").replace("$instance", ".+"))

            async def rules() -> dict[str, Any]:
                groups = (await ask("rules"))["groups"]
                return {rule["name"]: rule for group in groups for rule in group["rules"]}

            async def evaluated() -> bool:
                return all(rule["health"] == "ok" for rule in (await rules()).values())

            await eventually("all rules were evaluated", evaluated)
            # The listener that is scraped has a certificate of one day.
            stirring = {name for name, rule in (await rules()).items() if rule["state"] != "inactive"}
            assert stirring == {"PomeriumCertificateExpires", "PomeriumCertificateEnds"}

            kill(world.cluster.console.running.pid)

            async def noticed() -> bool:
                return "pending" in (await rules())["PomeriumControlPlaneAway"]["state"]

            await eventually("the alert is on its way", noticed)
            assert (await rules())["PomeriumNotReady"]["state"] == "inactive"
