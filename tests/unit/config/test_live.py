"""The configuration kept up to date: what is followed, when it is compiled, and what is said about it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pomerium_agent.config.digest import CONFIG_TYPES, ROUTE
from pomerium_agent.config.live import Compiled, open_config
from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.records import Cursor, Record
from pomerium_agent.runtime.health import Check, Health, Report, Status
from pomerium_agent.runtime.latest import Latest
from tests.fakes.clock import ManualClock, settle
from tests.fakes.config_records import broken, config, entity, issue, route, settings, versioned


class Stage:
    """A databroker in memory, a clock that tests move, and the configuration that comes of both."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.backend = MemoryBackend(self.clock)
        self.health = Health()

    @asynccontextmanager
    async def config(self, backend: Backend | None = None, **options: Any) -> AsyncIterator[Latest[Compiled | None]]:
        async with open_config(
            backend or self.backend, clock=self.clock, health=self.health, secret=b"s", **options
        ) as latest:
            yield latest

    async def put(self, *records: Record) -> None:
        await self.backend.put(records)

    @property
    def report(self) -> Report:
        return self.health.reports[Check.CONFIG_BUILD]


async def newest(stage: Stage, latest: Latest[Compiled | None], after: Compiled | None = None) -> Compiled:
    """The next configuration, once its burst has settled; it may be made in a thread, so real time may pass."""
    async with asyncio.timeout(10):
        await stage.clock.until_sleeping()
        await stage.clock.advance(1)
        async for compiled in latest.follow():
            if compiled is not None and compiled is not after:
                return compiled
    raise AssertionError("follow never ends")


def ids(compiled: Compiled) -> list[str]:
    return [r.id for r in compiled.snapshot.routes]


async def test_there_is_no_configuration_before_the_first_delivery_and_then_there_is_be_it_empty() -> None:
    """Z 18.2."""
    stage = Stage()

    async with stage.config() as latest:
        assert latest.value is None
        compiled = await newest(stage, latest)

    assert (ids(compiled), compiled.faults) == ([], ())


async def test_all_six_types_make_the_configuration() -> None:
    """Z-45."""
    stage = Stage()
    await stage.put(
        config("c", route(id="1", prefix="/1")),
        versioned("v", route(id="2", prefix="/2"), conditions=[]),
        entity("3", route(prefix="/3", policy_ids=["p"])),
        entity("s", settings(cookie_name="mine")),
    )

    async with stage.config() as latest:
        compiled = await newest(stage, latest)

    assert ids(compiled) == ["3", "2", "1"]
    assert compiled.snapshot.settings.cookie_name == "mine"


async def test_changes_that_come_together_are_compiled_together() -> None:
    """D-38: the newest record of each."""
    stage = Stage()

    async with stage.config() as latest:
        first = await newest(stage, latest)
        for number in range(5):
            await stage.put(config(f"c{number}", route(id=str(number), prefix=f"/{number}")))
            await stage.clock.advance(0.01)
        assert latest.value is first
        second = await newest(stage, latest, first)

    assert len(ids(second)) == 5


async def test_a_deleted_record_is_gone_from_the_next_configuration() -> None:
    """D-38, Z-49."""
    stage = Stage()
    record = config("c", route(id="r"))
    await stage.put(record)

    async with stage.config() as latest:
        first = await newest(stage, latest)
        await stage.put(record.as_deleted(stage.clock.now()))
        second = await newest(stage, latest, first)

    assert (ids(first), ids(second)) == (["r"], [])


async def test_a_fault_is_reported_with_its_name_and_the_report_clears_when_it_is_mended() -> None:
    stage = Stage()
    await stage.put(config("c", route(id="good"), route(id="bad", prefix="/b", timeout="-1s")))

    async with stage.config() as latest:
        first = await newest(stage, latest)
        await settle()
        failed = stage.report
        await stage.put(config("c", route(id="good")))
        await newest(stage, latest, first)
        await settle()
        mended = stage.report

    fault = first.faults[0]
    assert not failed.healthy
    assert str(fault) in failed.error
    assert failed.attributes == {
        "faults": "1",
        "digest": first.snapshot.digest,
        f"fault.{fault.id}": str(fault),
    }
    assert mended.healthy
    assert mended.attributes["faults"] == "0"


async def test_a_warning_alone_is_no_failure_but_is_told() -> None:
    stage = Stage()
    await stage.put(config("c", route(id="r", remove_request_headers=["Host"])))

    async with stage.config() as latest:
        compiled = await newest(stage, latest)
        await settle()
        report = stage.report

    assert report.healthy
    assert report.attributes[f"fault.{compiled.faults[0].id}"] == str(compiled.faults[0])


async def test_a_long_list_of_faults_is_cut() -> None:
    stage = Stage()
    await stage.put(config("c", *(route(id=str(n), prefix=f"/{n}", timeout="-1s") for n in range(60))))

    async with stage.config() as latest:
        await newest(stage, latest)
        await settle()
        report = stage.report

    assert report.attributes["faults"] == "60"
    assert sum(name.startswith("fault.") for name in report.attributes) == 50
    assert report.error.endswith("and 10 more")


async def test_each_fault_is_logged_once_for_as_long_as_it_lasts() -> None:
    stage = Stage()
    bad, good = config("c", route(id="bad", timeout="-1s")), config("c", route(id="bad"))

    with capture_logs() as logs:
        async with stage.config() as latest:
            compiled = await newest(stage, latest)
            for record in (bad, config("d"), good, bad):
                await stage.put(record)
                compiled = await newest(stage, latest, compiled)

    lines = [line for line in logs if line["event"] == "configuration fault"]
    assert [line["field"] for line in lines] == ["timeout", "timeout"]
    assert lines[0]["fault"] == compiled.faults[0].id


async def test_what_cannot_be_read_at_all_leaves_the_last_configuration_in_force() -> None:
    """Z-48."""
    stage = Stage()
    await stage.put(config("c", route(id="r")))

    async with stage.config() as latest:
        first = await newest(stage, latest)
        await stage.put(broken("c"))
        await stage.clock.until_sleeping()
        await stage.clock.advance(1)
        async with asyncio.timeout(10):
            async for report in stage.health.follow():
                if report.error:
                    break

    assert "none of 1 configuration records can be read" in report.error
    assert latest.value is first


async def test_an_accepted_route_stays_when_its_next_version_is_bad() -> None:
    stage = Stage()
    await stage.put(config("c", route(id="r", prefix="/a")))

    async with stage.config() as latest:
        first = await newest(stage, latest)
        await stage.put(config("c", route(id="r", prefix="/a", regex="(")))
        second = await newest(stage, latest, first)

    assert second.faults
    assert second.snapshot.routes[0] is first.snapshot.routes[0]


async def test_compiling_much_leaves_the_event_loop_to_others() -> None:
    stage = Stage()
    await stage.put(
        *(config(f"c{n}", *(route(id=f"{n}.{i}", prefix=f"/{n}/{i}") for i in range(100))) for n in range(20))
    )

    async with stage.config() as latest:
        compiled = await newest(stage, latest)

    assert len(ids(compiled)) == 2000


class Unreachable(MemoryBackend):
    """A store that does not answer for one type until it is mended."""

    def __init__(self, clock: ManualClock, type: str) -> None:
        super().__init__(clock)
        self._type = type
        self.mended = asyncio.Event()

    async def latest(self, type: str = "") -> tuple[Cursor, tuple[Record, ...]]:
        if type == self._type:
            await self.mended.wait()
        return await super().latest(type)


async def test_entities_wait_for_each_other_and_hold_nobody_up() -> None:
    """Z 18.2."""
    stage = Stage()
    backend = Unreachable(stage.clock, ROUTE)
    await backend.put(
        [config("c", route(id="c")), entity("s", settings(cookie_name="mine")), entity("e", route(path="/"))]
    )

    async with stage.config(backend) as latest:
        first = await newest(stage, latest)
        backend.mended.set()
        second = await newest(stage, latest, first)

    assert (ids(first), first.snapshot.settings.cookie_name) == (["c"], "_pomerium")
    assert (ids(second), second.snapshot.settings.cookie_name) == (["e", "c"], "mine")


async def test_a_closed_databroker_is_waited_for_and_the_configuration_goes_on() -> None:
    stage = Stage()
    await stage.put(config("c", route(id="r")))

    async with stage.config() as latest:
        first = await newest(stage, latest)
        await stage.backend.close()
        await stage.clock.until_sleeping(len(CONFIG_TYPES))
        assert latest.value is first


async def test_files_that_routes_name_are_read_by_the_reader_handed_in() -> None:
    stage = Stage()
    await stage.put(config("c", route(id="r", tls_custom_ca_file="/ca.pem")))

    async with stage.config(read_file=lambda path: issue("ca.example.com")[0]) as latest:
        compiled = await newest(stage, latest)

    assert compiled.faults == ()


async def test_files_on_this_machine_are_read_unless_they_are_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(issue("ca.example.com")[0])
    (tmp_path / "big.pem").write_bytes(bytes(2 * 1024 * 1024))
    names = ["ca.pem", "big.pem", "missing.pem", "."]
    routes = [route(id=name, prefix=f"/{n}", tls_custom_ca_file=str(tmp_path / name)) for n, name in enumerate(names)]
    stage = Stage()
    await stage.put(config("c", *routes))

    async with stage.config() as latest:
        compiled = await newest(stage, latest)

    reasons = {fault.route_id: fault.reason.rpartition(": ")[2] for fault in compiled.faults}
    assert reasons == {
        "big.pem": "larger than 1048576 bytes",
        "missing.pem": "no such file",
        ".": "not a regular file",
    }


async def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    """Authorize 16: the tokens of Kubernetes are replaced every hour, as a whole directory behind a link."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(f"{name}\n")
    (tmp_path / "now").symlink_to("one")
    stage = Stage()
    path = str(tmp_path / "now" / "token")
    await stage.put(config("c", route(id="k", kubernetes_service_account_token_file=path)))

    async with stage.config() as latest:
        first = await newest(stage, latest)
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(tmp_path / "now")
        second = await looked(stage, latest, first)
        (tmp_path / "two" / "token").unlink()
        third = await looked(stage, latest, second)
        error = stage.report.error

    tokens = [compiled.snapshot.routes[0].kubernetes_token for compiled in (first, second, third)]
    assert tokens == ["one", "two", ""]
    assert third.snapshot.routes[0].access.policy.closed
    assert "no such file" in error


async def looked(stage: Stage, latest: Latest[Compiled | None], after: Compiled) -> Compiled:
    """The configuration after somebody looked at the files."""
    async with asyncio.timeout(10):
        while latest.value is after:
            await stage.clock.advance(11)
            await asyncio.sleep(0.01)  # looking and compiling are in threads
    assert latest.value is not None
    return latest.value


async def test_stopping_leaves_no_task_behind_and_says_so() -> None:
    stage = Stage()
    before = asyncio.all_tasks()

    async with stage.config() as latest:
        await newest(stage, latest)
    await settle()

    assert asyncio.all_tasks() == before
    assert stage.report.status is Status.TERMINATING


async def test_a_failure_of_whoever_uses_it_ends_it_too() -> None:
    stage = Stage()
    before = asyncio.all_tasks()

    with pytest.raises(ExceptionGroup) as caught:
        async with stage.config():
            raise ValueError("the user's own")

    assert caught.group_contains(ValueError, match="the user's own")
    assert asyncio.all_tasks() == before
