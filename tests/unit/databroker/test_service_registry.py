"""Which services are alive, and where: over TCP, by the tables of the specification (databroker 9)."""

import asyncio
from typing import Any

import grpc
import pytest

from tests.contract.stores import SOON
from tests.fakes.databroker_wire import message
from tests.unit.databroker.wire import open_wire, refusal

DATABROKER, AUTHORIZE, METRICS = 1, 2, 7


def report(*services: tuple[int, str]) -> Any:
    request = message("registry", "RegisterRequest")
    for kind, endpoint in services:
        request.services.add(kind=kind, endpoint=endpoint)
    request.metadata["ignored"].SetInParent()
    return request


def places(answer: Any) -> list[tuple[int, str]]:
    return [(each.kind, each.endpoint) for each in answer.services]


async def test_who_reports_is_listed_by_kind_and_place_and_called_back_in_time() -> None:
    """D-41."""
    async with open_wire() as (wire, _, _):
        answer = await wire.send(
            "Registry.Report", report((METRICS, "http://b/metrics"), (METRICS, "http://a/metrics"))
        )
        assert answer.call_back_after.seconds == 15
        await wire.send("Registry.Report", report((DATABROKER, "http://c")))

        all_of_them = [(DATABROKER, "http://c"), (METRICS, "http://a/metrics"), (METRICS, "http://b/metrics")]
        assert places(await wire.call("Registry.List")) == all_of_them
        assert places(await wire.call("Registry.List", kinds=[METRICS])) == all_of_them[1:]
        assert places(await wire.call("Registry.List", kinds=[AUTHORIZE])) == []


async def test_a_service_is_believed_for_thirty_seconds_and_reporting_renews_it() -> None:
    """D-41."""
    async with open_wire() as (wire, _, clock):
        for _ in range(3):
            await wire.send("Registry.Report", report((METRICS, "http://a")))
            clock.jump(30)
            assert places(await wire.call("Registry.List")) == [(METRICS, "http://a")]
        clock.jump(0.001)

        assert places(await wire.call("Registry.List")) == []


async def test_a_watcher_sees_what_is_there_what_comes_and_what_goes() -> None:
    """C26, D-41."""
    async with open_wire() as (wire, _, clock), asyncio.timeout(SOON):
        call = wire.call("Registry.Watch", kinds=[METRICS])
        assert places(await call.read()) == []

        await wire.send("Registry.Report", report((DATABROKER, "http://c")))
        await wire.send("Registry.Report", report((METRICS, "http://a")))
        assert places(await call.read()) == [(METRICS, "http://a")]

        await clock.until_sleeping()
        await clock.advance(36)
        assert places(await call.read()) == []


@pytest.mark.parametrize("service", [(0, "http://a"), (METRICS, ""), (METRICS, "x" * 3000)])
async def test_a_service_without_kind_or_place_is_refused(service: tuple[int, str]) -> None:
    async with open_wire() as (wire, _, _):
        code, _ = await refusal(wire.send("Registry.Report", report((METRICS, "http://a"), service)))

        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert places(await wire.call("Registry.List")) == []
