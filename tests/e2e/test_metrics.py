"""Metrics as a scraper sees them: real console, agent and Envoy, through the metrics listener (routes 7.5)."""

import asyncio
import base64
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from pomerium_agent.demo.playground import ReplicaAt, free_port
from pomerium_agent.errors import SettingsError
from tests.e2e.world import HELLO, World, eventually, open_world
from tests.fakes.private_ca import PrivateCa
from tests.fakes.promql import alert_queries, dashboard_queries, metrics_of

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

ONLY_GET = """
from: https://methods.DOMAIN
to: UPSTREAM
policy:
  - allow:
      and:
        - http_method:
            is: GET
"""
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
USER, PASSWORD = "prometheus", "swordfish-metrics"


@dataclass(slots=True)
class Scene:
    world: World
    replica: ReplicaAt
    port: int
    in_force: dict[str, str] = field(default_factory=lambda: {"metrics_address": ""})  # as it begins

    def settings(self, **more: str) -> str:
        lines = {"metrics_address": f"127.0.0.1:{self.port}", **more}
        return "\n".join(f"{name}: {value}" for name, value in lines.items() if value)

    async def apply(self, *, allow_faulty: bool = False, **more: str) -> None:
        """These settings are in force."""
        if more == self.in_force:
            return
        before = str((await self.replica.status())["config"])
        await self.world.apply(
            HELLO, ONLY_GET, settings=self.settings(**more), options=("--allow-faulty",) if allow_faulty else ()
        )

        async def changed() -> bool:
            config = (await self.replica.status())["config"]
            assert isinstance(config, dict)
            return str(config) != before and config["in_force"] == config["offered"]

        await eventually("the configuration is in force", changed)
        self.in_force = more

    async def get(
        self, path: str = "/metrics", *, auth: str = "", tls: ssl.SSLContext | None = None
    ) -> tuple[int, str]:
        url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}{path}"
        headers = {"authorization": f"Basic {auth}"} if auth else {}
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as client,
            client.get(url, headers=headers, ssl=tls or True) as response,
        ):
            return response.status, await response.text()

    async def scrape(self, *, auth: str = "", tls: ssl.SSLContext | None = None) -> dict[str, float]:
        """Series → value, as a Prometheus would have them."""
        status, text = await self.get(auth=auth, tls=tls)
        assert status == 200, text
        return series(text)

    async def raw(self, request: bytes) -> bytes:
        """Bytes out, the first line back: paths that no client would send."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        answer = await asyncio.wait_for(reader.readline(), 10)
        writer.close()
        return answer


def series(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f"|{value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def basic(user: str = USER, password: str = PASSWORD) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene() -> AsyncIterator[Scene]:
    async with open_world() as world:
        await world.apply(HELLO, ONLY_GET)
        async with world.cluster.replica() as replica:
            yield Scene(world, replica, free_port())


async def test_name_and_password_guard_both_paths_and_nothing_else_of_envoy_is_there(scene: Scene) -> None:
    """Routes 7.5, 1.7 (40, 64): protected on both paths, and Envoy's admin is behind neither."""
    await scene.apply(metrics_basic_auth=basic())
    right = basic()

    for path in ("/metrics", "/metrics/envoy"):
        assert (await scene.get(path))[0] == 401
        assert (await scene.get(path, auth=basic(password="wrong")))[0] == 401
        assert (await scene.get(path, auth=basic(user="wrong")))[0] == 401
        assert (await scene.get(path, auth=right))[0] == 200
    _, both = await scene.get("/metrics", auth=right)
    _, envoy = await scene.get("/metrics/envoy", auth=right)
    assert "pomerium_build_info{" in both
    assert "envoy_server_live" in both
    assert "pomerium_build_info" not in envoy
    assert "envoy_server_live" in envoy
    for path in (
        *("/", "/stats", "/stats/prometheus", "/config_dump", "/certs", "/server_info", "/metrics/", "/metricsx"),
        *("/metrics/envoy/", "/metrics/envoy/../../config_dump", "/metrics/..%2fconfig_dump", "//config_dump"),
        *("/metrics/envoy%2f..%2f..%2fconfig_dump", "/metrics;/../config_dump", "/metrics/envoy/stats"),
    ):
        said = await scene.raw(
            f"GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Basic {basic()}\r\nconnection: close\r\n\r\n".encode()
        )
        assert said.split(b" ")[1] in (b"404", b"400"), (path, said[:200])
    for method in ("POST", "PUT", "DELETE"):
        said = await scene.raw(
            f"{method} /metrics HTTP/1.1\r\nhost: x\r\nauthorization: Basic {basic()}\r\n"
            "content-length: 0\r\nconnection: close\r\n\r\n".encode()
        )
        assert said.split(b" ")[1] == b"405", said[:200]
    assert PASSWORD not in both
    assert basic() not in both


async def test_numbers_move_with_requests(scene: Scene) -> None:
    """What is decided, what is remembered, what Envoy serves."""
    await scene.apply(metrics_basic_auth=basic())
    before = await scene.scrape(auth=basic())

    for _ in range(3):
        assert (await scene.world.get(scene.replica, "methods")).status == 200
    async with scene.world.client.post(scene.world.url(scene.replica, "methods"), allow_redirects=False) as response:
        assert response.status in (302, 403)
    after = await scene.scrape(auth=basic())

    def grown(name: str) -> float:
        return sum(after[key] - before.get(key, 0) for key in after if key.split("|")[0] == name)

    assert grown("pomerium_authorize_decisions_total") >= 4
    assert grown("pomerium_authorize_remembered_decisions_total") >= 2
    assert grown("pomerium_authorize_decision_duration_seconds_count") >= 4
    assert grown("envoy_http_downstream_rq_total") >= 4
    assert grown("pomerium_metrics_requests_total") >= 1
    assert after["pomerium_control_plane_connected"] == after["pomerium_ready"] == after["pomerium_envoy_scraped"] == 1
    assert after["pomerium_envoy_starts_total"] == 1
    assert after["pomerium_databroker_lease_held|zero-ctrl"] == 1


async def test_dashboard_alerts_and_page_speak_of_metrics_that_there_are(scene: Scene) -> None:
    """Each name in a query is in a real scrape; docs/metrics.md describes each metric of ours, and no other."""
    await scene.apply(metrics_basic_auth=basic())
    for _ in range(2):
        assert (await scene.world.get(scene.replica, "methods")).status == 200
    asked = {name for _, query in (*alert_queries().items(), *dashboard_queries()) for name in metrics_of(query)}
    described = set(re.findall(r"^\| `(pomerium_\w+)`", PAGE.read_text(), re.MULTILINE))

    assert len(asked) > 30
    missing = asked

    async def all_there() -> bool:
        nonlocal missing
        _, text = await scene.get(auth=basic())
        # Not by the parser, which gives counters the ending they should have.
        missing = asked - {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}
        return not missing

    try:  # Envoy shows a histogram only some seconds after something fell into it
        await eventually("all metrics are there", all_there)
    finally:
        assert missing == set()
    _, text = await scene.get(auth=basic())
    ours = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE pomerium_")}
    assert ours - described == set()
    assert described - ours <= {"pomerium_config_last_good_timestamp_seconds"}  # only while that is in use


async def test_tls_and_an_authority_for_clients_keep_everybody_else_out(scene: Scene) -> None:
    """Routes 7.5, 1.7 (65, 66)."""
    ours, theirs = PrivateCa("ours"), PrivateCa("theirs")
    server = ours.issue("127.0.0.1", "metrics.example.com")
    pair = {
        "metrics_certificate": base64.b64encode(server.certificate).decode(),
        "metrics_certificate_key": base64.b64encode(server.key).decode(),
    }
    trusting = ssl.create_default_context(cadata=ours.pem.decode())
    await scene.apply(allow_faulty=False, **pair)

    over_tls = await scene.scrape(tls=trusting)
    with pytest.raises(aiohttp.ClientError):
        await scene.get()
    await scene.apply(allow_faulty=False, **pair, metrics_client_ca=ours.base64, metrics_basic_auth=basic())

    right = basic()
    with pytest.raises((aiohttp.ClientError, OSError)):
        await scene.get(auth=right, tls=trusting)
    for issuer, welcome in ((ours, True), (theirs, False)):
        client = issuer.issue("scraper")
        with_certificate = ssl.create_default_context(cadata=ours.pem.decode())
        folder = scene.world.cluster.directory
        certificate, key, _ = client.write_to(folder)
        with_certificate.load_cert_chain(certificate, key)
        if welcome:
            assert (await scene.get(auth=right, tls=with_certificate))[0] == 200
            assert (await scene.get(tls=with_certificate))[0] == 401
        else:
            with pytest.raises((aiohttp.ClientError, OSError)):
                await scene.get(auth=right, tls=with_certificate)
    assert any(key.startswith("pomerium_certificate_expiry_timestamp_seconds") for key in over_tls)


async def test_what_cannot_be_read_closes_the_metrics_and_nothing_else(scene: Scene) -> None:
    """R-4 and routes 7.5; without an address there is no listener at all."""
    await scene.apply(metrics_address="")
    with pytest.raises(aiohttp.ClientConnectorError):
        await scene.get()
    with pytest.raises(SettingsError, match="metrics_basic_auth: settings: it is not base64 of user:password"):
        await scene.apply(metrics_basic_auth="nonsense")
    await scene.apply(metrics_basic_auth="nonsense", allow_faulty=True)

    with pytest.raises(aiohttp.ClientConnectorError):
        await scene.get()
    assert (await scene.world.get(scene.replica, "hello")).status == 200
    config = (await scene.replica.status())["config"]
    assert isinstance(config, dict)
    assert [fault["field"] for fault in config["faults"]] == ["metrics_basic_auth"]
