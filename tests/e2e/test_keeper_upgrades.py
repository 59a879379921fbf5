"""Agents and keepers that take each other's place, with the players of fakes/stage.py (architecture 1, 7)."""

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.stage import TIMEOUT, Stage, gone, stage

pytestmark = pytest.mark.e2e

CAST = ({"says": ["ENVOY"]},)


def outcome(on: Stage, caller: socket.socket) -> dict[str, Any]:
    """The last that a caller is told."""
    return on.answers(caller)[-1]


def agent_alone(on: Stage) -> socket.socket:
    """Ask for another agent, and leave the keeper as it is."""
    return on.ask(op="upgrade", keeper="no")


def test_the_old_agent_lets_go_before_the_new_one_serves(tmp_path: Path) -> None:
    with stage(tmp_path, agent=CAST) as on:
        old, envoy = on.wait("agent", "started"), on.wait("envoy", "started")
        on.wait("agent", "heard")

        said = on.answers(agent_alone(on))

        new = on.wait("agent", "started")
        assert said[-1] == {"done": True, "trouble": ""}
        assert [each["step"].split(";")[0] for each in said[:-1]] == [
            "the new agent gets ready beside the one that serves",
            "the new agent is ready",
            "the new agent takes over the records and opens its doors",
            "the new agent serves",
            "the new agent serves alone",
        ]
        assert new["environ"]["POMERIUM_AGENT_SUCCESSOR"]
        assert new["environ"]["POMERIUM_AGENT_INSTANCE"] == old["environ"]["POMERIUM_AGENT_INSTANCE"]
        on.wait("agent", "heard", pid=new["pid"], said={"event": "envoy", "pid": envoy["pid"]})
        on.wait("agent", "heard", pid=old["pid"], said={"event": "hold"})
        on.wait("agent", "heard", pid=new["pid"], said={"event": "charge", "ready": False, "alone": False})
        on.wait("agent", "heard", pid=old["pid"], said={"event": "succeeded"})
        on.wait("agent", "SIGTERM", pid=old["pid"])
        assert gone(old["pid"])

        os.kill(new["pid"], signal.SIGKILL)
        assert "POMERIUM_AGENT_SUCCESSOR" not in on.wait("agent", "started")["environ"]
        assert on.end(signal.SIGTERM)[0] == 0
        assert on.still_untold().count(("envoy", "started")) == 0


@pytest.mark.parametrize(
    ("part", "trouble"),
    [
        ({"exit": 7}, "it ended with code 7 before it served"),
        ({"exit": 2}, "it ended with code 2 before it served"),
        ({"mute": ["prepared"]}, "it was not ready within 0.3 s"),
        ({"mute": ["serving"]}, "it was ready, but did not take over within 0.3 s"),
    ],
)
def test_a_new_agent_that_is_no_good_goes_and_the_old_one_stays(
    tmp_path: Path, part: dict[str, Any], trouble: str
) -> None:
    patience = {"prepare": 0.3, "enter": 0.3} if "mute" in part else {"prepare": 30.0}
    with stage(tmp_path, agent=[*CAST, {"says": ["ENVOY"], **part}, *CAST], patience=patience) as on:
        old = on.wait("agent", "started")
        on.wait("agent", "heard")

        ended = outcome(on, agent_alone(on))

        new = on.wait("agent", "started")
        assert trouble in ended["trouble"]
        on.wait("agent", "heard", pid=old["pid"], said={"event": "resume"})
        assert gone(new["pid"])
        on.keeper.send_signal(signal.SIGHUP)
        on.wait("agent", "SIGHUP", pid=old["pid"])


def test_after_a_failure_another_try_may_succeed(tmp_path: Path) -> None:
    with stage(tmp_path, agent=[*CAST, {"exit": 1}, *CAST]) as on:
        on.wait("agent", "heard")

        assert outcome(on, agent_alone(on))["trouble"]
        assert not outcome(on, agent_alone(on))["trouble"]


def test_an_old_agent_that_cannot_let_go_goes_on(tmp_path: Path) -> None:
    with stage(tmp_path, agent=[{"says": ["ENVOY"], "mute": ["held"]}, *CAST], patience={"enter": 0.3}) as on:
        old = on.wait("agent", "started")
        on.wait("agent", "heard")

        assert "did not come to the end of what it writes" in outcome(on, agent_alone(on))["trouble"]
        on.wait("agent", "heard", pid=old["pid"], said={"event": "resume"})


def test_when_the_old_agent_dies_in_the_middle_the_new_one_takes_over_as_it_is(tmp_path: Path) -> None:
    with stage(tmp_path, agent=[*CAST, {"says": ["ENVOY"], "mute": ["prepared"]}, {"exit": 9}]) as on:
        old = on.wait("agent", "started")
        on.wait("agent", "heard")
        caller = agent_alone(on)
        new = on.wait("agent", "started")
        on.wait("agent", "heard", pid=new["pid"])

        os.kill(old["pid"], signal.SIGKILL)

        on.wait("agent", "heard", pid=new["pid"], said={"event": "charge", "ready": False, "alone": True})
        assert outcome(on, caller) == {"done": True, "trouble": ""}
        assert on.end(signal.SIGTERM)[0] == 0
        on.wait("agent", "SIGTERM", pid=new["pid"])
        assert ("agent", "started") not in on.still_untold()


def test_a_stop_in_the_middle_stops_both(tmp_path: Path) -> None:
    with stage(tmp_path, agent=[*CAST, {"says": ["ENVOY"], "mute": ["prepared"]}]) as on:
        old = on.wait("agent", "started")
        on.wait("agent", "heard")
        caller = agent_alone(on)
        new = on.wait("agent", "started")
        on.wait("agent", "heard", pid=new["pid"])

        code, _ = on.end(signal.SIGTERM)

        assert code == 0
        assert outcome(on, caller)["trouble"] == "the replica is stopping"
        assert gone(old["pid"])
        assert gone(new["pid"])
        assert not on.run.exists()


def test_one_upgrade_at_a_time_and_nonsense_is_refused(tmp_path: Path) -> None:
    with stage(tmp_path, agent=[*CAST, {"says": ["ENVOY"], "mute": ["prepared"]}]) as on:
        on.wait("agent", "heard")
        first = agent_alone(on)
        on.wait("agent", "started")

        assert outcome(on, agent_alone(on))["trouble"] == "an upgrade is under way already"
        assert outcome(on, on.ask(op="dance"))["trouble"] == "the keeper does not know what that is"
        first.close()


def test_another_envoy_is_started_once_the_new_agent_serves(tmp_path: Path) -> None:
    with stage(tmp_path, agent=CAST) as on:
        first = on.wait("envoy", "started")
        on.wait("agent", "heard")
        on.bootstrap.write_text("second")

        assert not outcome(on, agent_alone(on))["trouble"]

        on.wait("envoy", "SIGTERM", pid=first["pid"])
        assert on.wait("envoy", "started")["bootstrap"] == "second"


def test_a_keeper_takes_over_the_process_with_all_that_runs_below_it(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(TIMEOUT)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
        with stage(tmp_path, agent=[{"says": ["ENVOY", '{"op": "ready"}']}], environ=environ) as on:
            old, envoy = on.wait("agent", "started"), on.wait("envoy", "started")
            on.wait("agent", "heard")

            said = on.answers(on.ask(op="upgrade", keeper="yes", agent=False))

            assert [each.get("step") for each in said] == [
                "the new keeper is tried out beside the one that runs",
                "the new keeper has taken over",
                None,
            ]
            assert said[-1]["trouble"] == ""
            while systemd.recv(100) != b"WATCHDOG=1":
                pass
            on.keeper.send_signal(signal.SIGHUP)
            on.wait("agent", "SIGHUP", pid=old["pid"])
            os.kill(envoy["pid"], signal.SIGKILL)
            again = on.wait("envoy", "started")
            on.wait("agent", "heard", pid=old["pid"], said={"event": "envoy", "pid": again["pid"]})
            os.kill(old["pid"], signal.SIGKILL)
            second = on.wait("agent", "started")
            assert second["environ"]["POMERIUM_AGENT_INSTANCE"] == old["environ"]["POMERIUM_AGENT_INSTANCE"]
            assert "POMERIUM_AGENT_ADOPT" not in second["environ"]

            # and once more, with the agent
            assert outcome(on, on.ask(op="upgrade", keeper="yes")) == {"done": True, "trouble": ""}
            third = on.wait("agent", "started")
            code, log = on.end(signal.SIGTERM)

            assert code == 0
            assert [line["pid"] for line in log if line["event"] == "keeper took over"] == [on.keeper.pid] * 2
            on.wait("agent", "SIGTERM", pid=third["pid"])
            on.wait("envoy", "SIGTERM", pid=again["pid"])
            assert not on.run.exists()


def test_the_same_keeper_is_not_replaced_unless_that_is_asked_for(tmp_path: Path) -> None:
    with stage(tmp_path, agent=CAST) as on:
        on.wait("agent", "heard")

        said = [each.get("step", "") for each in on.answers(on.ask(op="upgrade"))]

        assert "the new keeper has taken over" not in said
        assert said[-2] == "the new agent serves alone"


def test_a_keeper_that_fails_its_trial_changes_nothing(tmp_path: Path) -> None:
    with stage(tmp_path, agent=CAST) as on:
        old = on.wait("agent", "started")
        on.wait("agent", "heard")
        (tmp_path / "broken").touch()

        assert "ended with code 1" in outcome(on, on.ask(op="upgrade"))["trouble"]

        on.keeper.send_signal(signal.SIGHUP)
        on.wait("agent", "SIGHUP", pid=old["pid"])
        assert on.still_untold() == [("envoy", "started")]
