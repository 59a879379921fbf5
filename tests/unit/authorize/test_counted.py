"""Every answer is counted once, remembered or not, and so is every question that gets none."""

import pytest
from google.protobuf.message import DecodeError

from pomerium_agent.errors import DatabrokerUnavailable
from pomerium_agent.runtime.tally import Tally
from tests.fakes import session_records as people
from tests.unit.authorize.asking import cookie, question, room


def counted(tally: Tally) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in tally.collect()
        for sample in family.samples
        if sample.value and "bucket" not in sample.name
    }


async def test_decisions_and_times_add_up() -> None:
    tally = Tally()
    async with room(tally=tally) as checks:
        for _ in range(4):
            assert checks.ask(headers=cookie("s-ada")).allowed
        assert not checks.ask().allowed
        with pytest.raises(DecodeError):
            checks.checker.check(b"\xff")

    found = counted(tally)

    allowed = sum(value for key, value in found.items() if key[:2] == ("authorize_decisions_total", "allow"))
    assert allowed == 4
    assert found["authorize_remembered_decisions_total",] == 3
    assert found["authorize_decisions_total", "login", "user-unauthenticated"] == 1
    assert found["authorize_failures_total",] == 1
    assert found["authorize_decision_duration_seconds_count",] == 5


async def test_an_answer_that_is_waited_for_counts_too_and_one_that_never_comes() -> None:
    tally = Tally()
    async with room(tally=tally) as checks:
        checks.stage.backend.lag()
        written = await checks.stage.backend.put([people.session("s-new", "u-ada")])
        hint = {
            "databroker_server_version": written.server_version,
            "databroker_record_version": written.records[-1].version,
        }
        answer = checks.checker.check(question(headers=cookie("s-new", **hint)))
        assert not isinstance(answer, bytes)
        assert counted(tally).get(("authorize_decision_duration_seconds_count",), 0) == 0
        await answer
        checks.stage.backend.cut()
        await checks.stage.clock.advance(0)
        with pytest.raises(DatabrokerUnavailable):
            await checks.ask_and_wait(headers=cookie("s-newer", **(hint | {"databroker_record_version": 10**9})))

    assert counted(tally)["authorize_decision_duration_seconds_count",] == 1
    assert counted(tally)["authorize_failures_total",] == 1
