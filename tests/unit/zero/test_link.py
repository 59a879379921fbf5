"""The whole line against a real control plane: opened, worked with, refused, and closed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.errors import Refused, SettingsError
from pomerium_agent.pb.pomerium import connect_pb2, session_pb2
from pomerium_agent.records import Record, pack, type_url
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.settings import Endpoint
from pomerium_agent.zero.active_users import STATE, stored_counts
from pomerium_agent.zero.api import Patience
from pomerium_agent.zero.link import LEASE, LEASE_TTL, Link, open_link, run_jobs
from tests.fakes.authority import issue_for_loopback
from tests.fakes.clock import ManualClock, settle
from tests.fakes.control_plane import PATIENCE, FakeControlPlane, Say, html, say, serve_control_plane, settings_for
from tests.unit.zero.wire import record

CONFIG = "type.googleapis.com/pomerium.config.Config"
BOOTSTRAP_UPDATED = connect_pb2.Message(bootstrap_config_updated=connect_pb2.BootstrapConfigUpdated())
CONFIG_UPDATED = connect_pb2.Message(config_updated=connect_pb2.ConfigUpdated())


@dataclass(slots=True, kw_only=True)
class House:
    plane: FakeControlPlane
    link: Link
    health: Health
    backend: Backend

    async def until_healthy(self, check: str) -> None:
        async with asyncio.timeout(PATIENCE):
            async for report in self.health.follow():
                if report.check == check and report.healthy:
                    return

    async def until_failed(self, check: str, text: str) -> None:
        async with asyncio.timeout(PATIENCE):
            async for report in self.health.follow():
                if report.check == check and text in report.error:
                    return

    async def ids(self) -> list[str]:
        return [one.id for one in (await self.backend.latest(CONFIG))[1]]

    async def until_ids(self, *ids: str) -> None:
        async with asyncio.timeout(PATIENCE):
            cursor = (await self.backend.latest(CONFIG))[0]
            while await self.ids() != list(ids):
                async for change in self.backend.changes(cursor, CONFIG):
                    cursor = type(cursor)(cursor.server_version, change.version)
                    break


@asynccontextmanager
async def linked(plane: FakeControlPlane, folder: Path, **changes: Any) -> AsyncIterator[House]:
    """A link without jobs, in real time."""
    health = Health()
    settings = settings_for(plane, folder, **changes)
    backend = MemoryBackend(SystemClock())
    async with open_link(settings, health=health, clock=SystemClock(), instance="instance-1") as link:
        yield House(plane=plane, link=link, health=health, backend=backend)
    await backend.close()


async def test_from_a_token_to_records_and_reports(tmp_path: Path) -> None:
    """Z-22, Z-30, Z-32, Z-44, Z-53."""
    async with serve_control_plane() as plane:
        plane.publish("config", [record("a")], etag='"1"')
        async with linked(plane, tmp_path) as at, run_jobs(at.link, Latest(at.backend)):
            await at.until_ids("a")
            await at.until_healthy("zero.resource-bundle.config")
            await plane.until(lambda: "zero.resource-bundle.config" in {span.name for span in plane.spans})

    assert at.link.bootstrap.value is not None
    assert at.link.bootstrap.value.cluster_id == "cluster"


async def test_bundles_arrive_although_the_stream_never_stood(tmp_path: Path) -> None:
    """Z-32: a full sync follows the lease, whatever the state of the connection."""
    async with serve_control_plane() as plane:
        plane.publish("config", [record("a")], etag='"1"')
        nowhere = Endpoint(url="", tls=False, host="127.0.0.1", port=1)
        async with linked(plane, tmp_path, connect=nowhere) as at, run_jobs(at.link, Latest(at.backend)):
            await at.until_ids("a")

            assert at.link.connection.value.turn == 0


async def test_the_bootstrap_is_fetched_at_start_on_connect_and_when_the_stream_says_so(tmp_path: Path) -> None:
    """Z-21, Z-22."""
    async with serve_control_plane() as plane, linked(plane, tmp_path) as at:
        await plane.until(lambda: len(plane.requests("bootstrap")) == 2)
        await at.until_healthy(Check.ZERO_CONNECT)

        plane.push(BOOTSTRAP_UPDATED)

        await plane.until(lambda: len(plane.requests("bootstrap")) == 3)


async def test_a_change_arrives_within_moments(tmp_path: Path) -> None:
    """Z-20."""
    async with serve_control_plane() as plane:
        plane.publish("config", [record("a")], etag='"1"')
        async with linked(plane, tmp_path) as at, run_jobs(at.link, Latest(at.backend)):
            await at.until_ids("a")
            await at.until_healthy(Check.ZERO_CONNECT)
            plane.publish("config", [record("a"), record("b")], etag='"2"')

            plane.push(CONFIG_UPDATED)

            await at.until_ids("a", "b")


async def test_bundles_are_synced_by_the_holder_of_the_lease_alone(tmp_path: Path) -> None:
    """Z-20, Z-29, Z-30."""
    async with serve_control_plane() as plane, linked(plane, tmp_path) as at:
        assert await at.backend.lease(LEASE, "another replica", timedelta(seconds=30))
        async with run_jobs(at.link, Latest(at.backend)):
            await at.until_healthy(Check.ZERO_CONNECT)
            plane.push(CONFIG_UPDATED)
            await at.until_healthy(Check.ZERO_BOOTSTRAP_SAVE)
            await plane.until(lambda: plane.spans)
            assert at.health.reports[Check.ZERO_LEASE].attributes == {"role": "standby"}

    assert plane.requests("bundles") == []


async def test_trouble_with_a_bundle_is_that_of_whoever_has_the_lease(tmp_path: Path) -> None:
    """Z-30, Z-44: who brings no bundles any more does not go on saying that one could not be brought."""
    check = "zero.resource-bundle.config"
    async with serve_control_plane() as plane, linked(plane, tmp_path) as at:
        plane.publish("config", [record("a")], etag='"1"')
        plane.always("storage", Say(status=503))
        taken, stores = MemoryBackend(at.link.clock), Latest[Backend](at.backend)
        assert await taken.lease(LEASE, "another replica", timedelta(seconds=30))
        async with run_jobs(at.link, stores):
            await at.until_failed(check, "503")

            stores.set(taken)

            async with asyncio.timeout(PATIENCE):
                async for report in at.health.follow():
                    if report.check == check and not report.error:
                        break
            assert at.health.reports[Check.ZERO_LEASE].attributes == {"role": "standby"}
        await taken.close()


def test_the_lease_is_the_one_that_every_replica_wants() -> None:
    """Z-29: replicas of the reference among them."""
    assert ("zero-ctrl", timedelta(seconds=30)) == (LEASE, LEASE_TTL)


async def test_the_lease_is_given_back_at_the_end(tmp_path: Path) -> None:
    """Z-29, Z-64."""
    async with serve_control_plane() as plane, linked(plane, tmp_path) as at:
        async with run_jobs(at.link, Latest(at.backend)):
            await plane.until(lambda: plane.requests("bundles"))
            assert not await at.backend.lease(LEASE, "another replica", timedelta(seconds=30))
            assert at.health.reports[Check.ZERO_LEASE].attributes == {"role": "active"}

        assert at.health.reports[Check.ZERO_LEASE].attributes == {"role": "standby"}
        assert await at.backend.lease(LEASE, "another replica", timedelta(seconds=30))


async def test_the_last_reports_are_sent_at_the_end(tmp_path: Path) -> None:
    """Z-64."""
    async with serve_control_plane() as plane, linked(plane, tmp_path) as at:
        async with run_jobs(at.link, Latest(at.backend)):
            await at.until_healthy(Check.ZERO_CONNECT)
            at.health.failed("last", "words")

        assert "last" in {span.name for span in plane.spans}


async def test_a_new_bootstrap_begins_the_leased_jobs_anew(tmp_path: Path) -> None:
    """Z-21, Z-25."""
    async with serve_control_plane() as plane:
        plane.publish("config", [record("a")], etag='"1"')
        async with linked(plane, tmp_path) as at, run_jobs(at.link, Latest(at.backend)):
            await at.until_ids("a")
            await at.until_healthy(Check.ZERO_CONNECT)
            await plane.until(lambda: len(plane.requests("bootstrap")) == 2)  # at start, and on connect
            listed = len(plane.requests("bundles"))
            plane.bootstrap["organizationId"] = "another"

            plane.push(BOOTSTRAP_UPDATED)

            await plane.until(lambda: len(plane.requests("bundles")) > listed)


async def test_jobs_wait_for_the_first_bootstrap(tmp_path: Path) -> None:
    """Z-8."""
    async with serve_control_plane() as plane:
        plane.always("bootstrap", html(502))
        async with linked(plane, tmp_path) as at, run_jobs(at.link, Latest(at.backend)):
            await at.until_healthy(Check.ZERO_CONNECT)
            assert plane.requests("bundles") == []
            plane.always("bootstrap", None)

            await plane.until(lambda: plane.requests("bundles"))


async def test_the_file_stands_in_for_a_control_plane_that_is_not_there(tmp_path: Path) -> None:
    """Z-22, Z-65."""
    async with serve_control_plane() as plane, linked(plane, tmp_path) as at:
        await at.until_healthy(Check.ZERO_BOOTSTRAP_SAVE)
    async with linked(plane, tmp_path) as at, run_jobs(at.link, Latest(at.backend)):
        assert at.link.bootstrap.value is not None
        await at.until_failed(Check.ZERO_CONNECT, "/v1/exchangeToken")


async def test_a_control_plane_that_dies_and_comes_back_is_found_again(tmp_path: Path) -> None:
    """Z-16, Z-65."""
    async with serve_control_plane() as plane, linked(plane, tmp_path) as at:
        await at.until_healthy(Check.ZERO_CONNECT)
        plane.subscriptions[0].end()

        await at.until_failed(Check.ZERO_CONNECT, "the stream ended")

        await at.until_healthy(Check.ZERO_CONNECT)


async def test_a_control_plane_that_accepts_and_then_hangs_costs_nothing_that_is_there(tmp_path: Path) -> None:
    """W3: what is in force stays, and the hang is named."""
    impatient = Patience(connect=1, read=0.2, total=0.5, exchange=0.5, download=0.5)
    async with serve_control_plane() as plane:
        plane.publish("config", [record("a")], etag='"1"')
        health, backend = Health(), MemoryBackend(SystemClock())
        async with (
            open_link(
                settings_for(plane, tmp_path), health=health, clock=SystemClock(), instance="i", patience=impatient
            ) as link,
            run_jobs(link, Latest(backend)),
        ):
            at = House(plane=plane, link=link, health=health, backend=backend)
            await at.until_ids("a")
            plane.always("storage", Say(hang=True))
            plane.push(CONFIG_UPDATED)
            await at.until_failed("zero.resource-bundle.config", "the download stalled")
            assert await at.ids() == ["a"]
            plane.always("storage", None)

            await at.until_healthy("zero.resource-bundle.config")


async def test_a_refused_token_leaves_as_refused(tmp_path: Path) -> None:
    """Z-10, Z-66: `exit`."""
    async with serve_control_plane() as plane:
        plane.always("exchangeToken", say({"error": "no such cluster"}, 400))

        with pytest.raises(ExceptionGroup) as raised:
            async with linked(plane, tmp_path) as at, run_jobs(at.link, Latest(at.backend)):
                await asyncio.Event().wait()

    refused = raised.value.subgroup(Refused)
    assert refused is not None
    assert "no such cluster" in str(_leaf(refused))


async def test_a_refused_list_of_bundles_leaves_as_refused(tmp_path: Path) -> None:
    """Z-10: zero link 4.4, the reconciler."""
    async with serve_control_plane() as plane:
        plane.always("bundles", say({"error": "cluster was deleted"}, 400))

        with pytest.raises(ExceptionGroup) as raised:
            async with linked(plane, tmp_path) as at, run_jobs(at.link, Latest(at.backend)):
                await asyncio.Event().wait()

    assert raised.value.subgroup(Refused) is not None


async def test_a_refused_replica_may_serve_on_in_silence(tmp_path: Path) -> None:
    """Z-66, W18: `serve`. What is there stays, nothing more is asked, and after an hour once more."""
    clock, health = ManualClock(), Health()
    async with serve_control_plane() as plane:
        plane.publish("config", [record("a")], etag='"1"')
        settings = settings_for(plane, tmp_path, on_refused="serve")
        backend = MemoryBackend(clock)
        async with (
            open_link(settings, health=health, clock=clock, instance="i") as link,
            run_jobs(link, Latest(backend)),
        ):
            at = House(plane=plane, link=link, health=health, backend=backend)
            await at.until_healthy("zero.resource-bundle.config")
            await at.until_healthy(Check.ZERO_CONNECT)
            plane.always("bundles", say({"error": "token was rotated"}, 400))

            plane.push(CONFIG_UPDATED)
            await clock.advance(1)
            await at.until_failed(Check.ZERO_CONNECT, "refused: bad request: token was rotated")
            await plane.until(lambda: not plane.subscriptions)
            asked = len(plane.seen)
            await clock.advance(3000)

            assert len(plane.seen) == asked
            assert await at.ids() == ["a"]
            assert link.bootstrap.value is not None
            plane.always("bundles", None)
            await clock.advance(700)
            await at.until_healthy(Check.ZERO_CONNECT)
            await plane.until(lambda: len(plane.seen) > asked)


async def test_over_tls_the_roots_of_ssl_cert_file_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero link 6: the API, downloads, connect and telemetry alike."""
    issued = issue_for_loopback()
    async with serve_control_plane(issued, tmp_path) as plane:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
        plane.publish("config", [record("a")], etag='"1"')
        async with linked(plane, tmp_path) as at, run_jobs(at.link, Latest(at.backend)):
            await at.until_healthy("zero.resource-bundle.config")
            await at.until_healthy(Check.ZERO_CONNECT)
            await plane.until(lambda: plane.spans)


async def test_roots_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve_control_plane() as plane:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing"))

        with pytest.raises(SettingsError, match=r"SSL_CERT_FILE: cannot read .*/nothing"):
            async with linked(plane, tmp_path):
                pass


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233])
async def test_cancelling_at_any_point_leaves_no_task_and_no_lease(tmp_path: Path, turns: int) -> None:
    """Z-64."""
    async with serve_control_plane() as plane:
        plane.publish("config", [record(f"{number}", bytes(1000)) for number in range(50)], etag='"1"')
        backend = MemoryBackend(SystemClock())

        async def agent() -> None:
            settings = settings_for(plane, tmp_path)
            async with (
                open_link(settings, health=Health(), clock=SystemClock(), instance="i") as link,
                run_jobs(link, Latest(backend)),
            ):
                await asyncio.Event().wait()

        task = asyncio.create_task(agent())
        await settle(turns * 5)
        task.cancel()
        await asyncio.wait([task])

        assert task.cancelled()
        assert [
            one for one in map(repr, asyncio.all_tasks()) if "/pomerium_agent/" in one or "aio/_call.py" in one
        ] == []
        assert await backend.lease(LEASE, "another replica", timedelta(seconds=1))


async def test_no_secret_reaches_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with serve_control_plane() as plane:
        plane.publish("config", b"\x05hello", etag='"1"')
        async with linked(plane, tmp_path) as at, run_jobs(at.link, Latest(at.backend)):
            await at.until_failed("zero.resource-bundle.config", "cannot be decoded")
            plane.script("storage", Say(status=403))
            plane.push(CONFIG_UPDATED)
            await at.until_failed("zero.resource-bundle.config", "answered 403")

    written = "".join(capsys.readouterr())
    assert "bundles not in sync" in written
    for secret in ("cluster-token-of-the-tests", "bearer-1", "s3cr3t"):
        assert secret not in written


def _leaf(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group


async def test_another_store_begins_the_leased_jobs_anew_there(tmp_path: Path) -> None:
    """Z-25, Z-29: under its own lease, and the old one is given back."""
    async with serve_control_plane() as plane:
        plane.publish("config", [record("a")], etag='"1"')
        async with linked(plane, tmp_path) as at:
            stores: Latest[Backend] = Latest(at.backend)
            async with run_jobs(at.link, stores):
                await at.until_ids("a")
                another = MemoryBackend(SystemClock())
                assert await another.lease(LEASE, "another replica", timedelta(seconds=30))

                stores.set(another)
                await plane.until(lambda: at.link.filled.value)
                async with asyncio.timeout(PATIENCE):
                    while not await at.backend.lease(LEASE, "another replica", timedelta(seconds=30)):
                        await settle()
                assert (await another.latest(CONFIG))[1] == ()  # the lease there is not ours
                await another.release(LEASE, "another replica")


async def test_a_replica_without_the_lease_is_filled_by_what_the_holder_wrote(tmp_path: Path) -> None:
    """Z-30: with a shared store it would otherwise wait for ever."""
    async with serve_control_plane() as plane:
        plane.publish("config", [record("a")], etag='"1"')
        async with linked(plane, tmp_path / "1") as holder, run_jobs(holder.link, Latest(holder.backend)):
            await holder.until_ids("a")
            async with linked(plane, tmp_path / "2") as other, run_jobs(other.link, Latest(holder.backend)):
                async with asyncio.timeout(PATIENCE):
                    async for filled in other.link.filled.follow():
                        if filled:
                            break


async def signed_in(backend: Backend) -> None:
    """Somebody is."""
    now = Timestamp()
    now.GetCurrentTime()
    session = session_pb2.Session(id="s1", user_id="ada", issued_at=now, accessed_at=now)
    await backend.put([Record(type=type_url(session_pb2.Session), id="s1", data=pack(session))])


async def until_counted(backend: Backend) -> None:
    """The number of active users is stored."""
    cursor, _ = await backend.latest(STATE)
    if not await stored_counts(backend):
        async with asyncio.timeout(PATIENCE), aclosing(backend.changes(cursor, STATE)) as changes:
            await anext(changes)


async def test_who_has_the_lease_counts_people_and_reports_them(tmp_path: Path) -> None:
    """Z-30, Z-56, Z-62: and says how many they are when it is asked."""
    ask = connect_pb2.Message(
        telemetry_request=connect_pb2.TelemetryRequest(session_analytics=connect_pb2.SessionAnalyticsRequest())
    )
    async with serve_control_plane() as plane, linked(plane, tmp_path) as at:
        await signed_in(at.backend)
        async with run_jobs(at.link, Latest(at.backend)):
            await plane.until(lambda: plane.subscriptions and plane.requests("reportUsage"))
            await until_counted(at.backend)
            plane.push(ask)
            await plane.until(lambda: plane.metric_exports)
        assert at.link.leading.value is None

    [users] = plane.metric_exports[0].resource_metrics[0].scope_metrics
    assert {metric.name: metric.gauge.data_points[0].as_int for metric in users.metrics} == {"dau": 1, "mau": 1}
    assert b"ada" not in plane.requests("reportUsage")[0].body


async def test_without_a_key_for_pseudonyms_nobody_is_reported(tmp_path: Path) -> None:
    """Z-61: an HMAC without a key is an open book."""
    async with serve_control_plane() as plane:
        plane.bootstrap["pseudonymizationKey"] = ""
        async with linked(plane, tmp_path) as at:
            await signed_in(at.backend)
            async with run_jobs(at.link, Latest(at.backend)):
                await until_counted(at.backend)  # so the jobs beside it have begun
                await settle()

    assert plane.requests("reportUsage") == []
