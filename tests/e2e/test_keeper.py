"""The keeper with real processes below it (architecture 1, 7, R-23, routes 12.2); fakes/stage.py has the players."""

import asyncio
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from pomerium_agent.envoy.binary import envoy_binary
from tests.fakes.bare_envoy import ARGUMENTS, bootstrap, cluster, pipe
from tests.fakes.stage import TIMEOUT, gone, stage, visit

pytestmark = pytest.mark.e2e


def test_agent_and_envoy_find_what_they_were_promised(tmp_path: Path) -> None:
    with stage(tmp_path) as on:
        agent = on.wait("agent", "started")
        heard = on.wait("agent", "heard")["said"]
        envoy = on.wait("envoy", "started")

        assert stat.S_IMODE(on.run.stat().st_mode) == 0o700
        sockets = {path.name: stat.S_IMODE(path.stat().st_mode) for path in on.run.glob("*.sock")}
        assert sockets.items() >= dict.fromkeys(("authorize.sock", "pages.sock", "control.sock"), 0o600).items()
        assert agent["fds"].keys() == {"authorize", "pages", "control"}
        assert agent["environ"]["RUNTIME_DIRECTORY"] == str(on.run)
        assert agent["environ"]["POMERIUM_ZERO_TOKEN"] == "t"
        assert heard == {"event": "envoy", "pid": envoy["pid"]}
        assert envoy["sid"] == envoy["pid"]
        assert envoy["files"][0] == envoy["files"][1]
        assert not [name for name in envoy["environ"] if "POMERIUM" in name]


def test_a_dead_agent_is_replaced_and_its_successor_adopts_envoy(tmp_path: Path) -> None:
    with stage(tmp_path) as on:
        first = on.wait("agent", "started")
        pid = on.wait("agent", "heard")["said"]["pid"]
        os.kill(first["pid"], signal.SIGKILL)

        second = on.wait("agent", "started")
        heard = on.wait("agent", "heard")["said"]

        assert second["pid"] != first["pid"]
        assert heard == {"event": "envoy", "pid": pid}
        assert second["environ"]["POMERIUM_AGENT_INSTANCE"] == first["environ"]["POMERIUM_AGENT_INSTANCE"]
        code, _ = on.end(signal.SIGTERM)
        assert code == 0
        assert on.still_untold().count(("envoy", "started")) == 1


def test_who_calls_while_the_agent_is_away_is_served_by_the_next_one(tmp_path: Path) -> None:
    """Envoy.md 5: the listening sockets outlive the agent, so nobody is refused."""
    with stage(tmp_path) as on:
        first = on.wait("agent", "started")
        os.kill(first["pid"], signal.SIGSTOP)
        with visit(on.run / "pages.sock") as early:
            os.kill(first["pid"], signal.SIGKILL)
            with visit(on.run / "pages.sock") as late:
                answers = {early.recv(100), late.recv(100)}

        second = on.wait("agent", "started")
        assert answers == {str(second["pid"]).encode()}


def test_a_dead_envoy_is_back_at_once_and_the_agent_hears_of_it(tmp_path: Path) -> None:
    """R-23."""
    with stage(tmp_path) as on:
        first = on.wait("envoy", "started")
        on.wait("agent", "heard", said={"event": "envoy", "pid": first["pid"]})
        os.kill(first["pid"], signal.SIGKILL)

        second = on.wait("envoy", "started")
        on.wait("agent", "heard", said={"event": "envoy", "pid": 0})
        on.wait("agent", "heard", said={"event": "envoy", "pid": second["pid"]})

        _, log = on.end(signal.SIGTERM)
        (ended, _) = (line for line in log if line["event"] == "child ended" and line["child"] == "envoy")
        assert ended["signal"] == "SIGKILL"
        assert ended["restart_in"] == 0
        assert on.still_untold().count(("agent", "started")) == 1


def test_what_keeps_dying_is_started_after_growing_pauses(tmp_path: Path) -> None:
    """R-23: with backoff, so that a crash loop does not burn the machine."""
    dying = {"exit": 1}
    with stage(tmp_path, envoy=[dying] * 4 + [{}], patience={"first_pause": 0.05}) as on:
        for _ in range(5):
            on.wait("envoy", "started")

        _, log = on.end(signal.SIGTERM)
        pauses = [line["restart_in"] for line in log if line.get("child") == "envoy" and "restart_in" in line]
        assert pauses[0] == 0
        assert 0.02 <= pauses[1] <= 0.08
        assert 0.05 <= pauses[2] <= 0.15
        assert 0.10 <= pauses[3] <= 0.30


def test_a_long_life_makes_the_next_end_a_first_one(tmp_path: Path) -> None:
    with stage(tmp_path, envoy=[{"exit": 1}] * 3 + [{}], patience={"settled": 0.0}) as on:
        for _ in range(4):
            on.wait("envoy", "started")

        _, log = on.end(signal.SIGTERM)
        assert {line["restart_in"] for line in log if "restart_in" in line} == {0}


def test_an_agent_that_ends_by_a_bug_is_started_again(tmp_path: Path) -> None:
    with stage(tmp_path, agent=[{"exit": 1}, {"exit": 0}, {}], patience={"first_pause": 0.01}) as on:
        for _ in range(3):
            on.wait("agent", "started")

        assert on.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("code", [2, 3])
def test_an_agent_that_may_not_go_on_ends_everything_with_its_code(tmp_path: Path, code: int) -> None:
    with stage(tmp_path, agent=[{"says": ["ENVOY"]}, {"exit": code}]) as on:
        envoy = on.wait("envoy", "started")
        os.kill(on.wait("agent", "started")["pid"], signal.SIGKILL)

        ended, log = on.end()
        assert ended == code
        assert "restart_in" not in [line for line in log if line.get("child") == "agent"][-1]
        assert list(log[0])[:4] == ["time", "level", "event", "service"]
        on.wait("envoy", "asked", request="POST /drain_listeners?graceful HTTP/1.1")
        on.wait("envoy", "SIGTERM")
        assert gone(envoy["pid"])
        assert not on.run.exists()


def test_another_bootstrap_replaces_envoy_in_order(tmp_path: Path) -> None:
    with stage(tmp_path) as on:
        first = on.wait("envoy", "started")
        on.wait("agent", "heard")
        on.bootstrap.write_text("second")
        os.kill(on.wait("agent", "started")["pid"], signal.SIGKILL)

        on.wait("envoy", "SIGTERM", pid=first["pid"])
        second = on.wait("envoy", "started")
        on.wait("agent", "heard", said={"event": "envoy", "pid": second["pid"]})

        assert second["bootstrap"] == "second"
        assert gone(first["pid"])


def test_an_envoy_that_will_not_make_room_is_killed(tmp_path: Path) -> None:
    with stage(tmp_path, envoy=[{"stubborn": True}, {}], patience={"envoy_stop": 0.1}) as on:
        first = on.wait("envoy", "started")
        on.wait("agent", "heard")
        on.bootstrap.write_text("second")
        os.kill(on.wait("agent", "started")["pid"], signal.SIGKILL)

        assert on.wait("envoy", "started")["bootstrap"] == "second"
        assert gone(first["pid"])


def test_an_agent_that_dies_during_the_replacement_changes_nothing(tmp_path: Path) -> None:
    with stage(tmp_path, envoy=[{"stubborn": True}, {}], patience={"envoy_stop": 1.0}) as on:
        first = on.wait("envoy", "started")
        on.wait("agent", "heard")
        on.bootstrap.write_text("second")
        os.kill(on.wait("agent", "started")["pid"], signal.SIGKILL)
        on.wait("envoy", "SIGTERM", pid=first["pid"])
        os.kill(on.wait("agent", "started")["pid"], signal.SIGKILL)

        third = on.wait("agent", "started")
        pids = [on.wait("agent", "heard", pid=third["pid"])["said"]["pid"] for _ in range(2)]

        assert pids == [0, on.wait("envoy", "started")["pid"]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_orderly_stop_drains_first_and_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """R-23: Envoy finishes what is in flight, then the agent goes, then Envoy."""
    with stage(tmp_path, envoy=[{"in_flight": [0, 2, 1, 0]}]) as on:
        agent = on.wait("agent", "started")
        envoy = on.wait("envoy", "started")
        on.wait("agent", "heard")

        code, log = on.end(number)

        assert code == 0
        on.wait("agent", "heard", said={"event": "draining"})
        assert on.still_untold() == [
            ("envoy", "asked"),  # POST /drain_listeners?graceful
            ("envoy", "asked"),  # 2 in flight
            ("envoy", "asked"),  # 1
            ("envoy", "asked"),  # 0
            ("agent", "SIGTERM"),
            ("envoy", "SIGTERM"),
        ]
        assert on.wait("envoy", "asked")["request"] == "POST /drain_listeners?graceful HTTP/1.1"
        assert gone(agent["pid"])
        assert gone(envoy["pid"])
        assert not on.run.exists()
        assert log[-1]["event"] == "keeper stopped"
        assert log[-1].keys() >= {"time", "level", "event", "service"}
        assert log[-1]["service"] == "keeper"


def test_nothing_is_drained_before_balancers_had_time_to_notice_and_a_second_signal_forces(tmp_path: Path) -> None:
    with stage(tmp_path, patience={"notice": 3600.0}) as on:
        on.wait("agent", "heard")
        on.keeper.send_signal(signal.SIGTERM)
        on.wait("agent", "heard", said={"event": "draining"})
        assert ("envoy", "asked") not in on.still_untold()

        assert on.end(signal.SIGTERM)[0] == 0
        assert ("envoy", "asked") not in on.still_untold()


def test_after_the_notice_envoy_takes_leave(tmp_path: Path) -> None:
    with stage(tmp_path, patience={"notice": 0.05}) as on:
        on.wait("envoy", "started")

        assert on.end(signal.SIGTERM)[0] == 0
        on.wait("envoy", "asked", request="POST /drain_listeners?graceful HTTP/1.1")


async def test_the_real_envoy_finishes_what_is_in_flight(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """R-23."""
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(_request: web.Request) -> web.Response:
        asked.set()
        await go.wait()
        return web.Response(text="done")

    app = web.Application()
    app.router.add_get("/", slow)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "upstream")).start()
    listen = free_port()
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "upstream"}}]
    upstream = cluster("upstream", pipe(tmp_path / "upstream"))
    configuration = bootstrap(tmp_path / "run" / "envoy-admin.sock", listen, [upstream], routes)
    argv = [str(envoy_binary(None)), *ARGUMENTS, "-c", str(tmp_path / "bootstrap.json")]
    line = json.dumps({"op": "envoy", "argv": argv, "bootstrap": str(tmp_path / "bootstrap.json")})

    with stage(tmp_path, agent=[{"says": [line]}], bootstrap=json.dumps(configuration)) as on:
        pid = (await asyncio.to_thread(on.wait, "agent", "heard"))["said"]["pid"]
        await asyncio.to_thread(on.read_until, "starting main dispatch loop")
        async with aiohttp.ClientSession() as client, asyncio.TaskGroup() as tasks:
            answer = tasks.create_task(client.get(f"http://127.0.0.1:{listen}/"))
            await asyncio.wait_for(asked.wait(), TIMEOUT)
            on.keeper.send_signal(signal.SIGTERM)
            await asyncio.to_thread(on.read_until, '"stopping"')
            go.set()
            assert await (await answer).text() == "done"
        code, _ = await asyncio.to_thread(on.end)

        assert code == 0
        assert gone(pid)
    await runner.cleanup()


def test_requests_without_end_do_not_hold_up_the_stop_for_ever(tmp_path: Path) -> None:
    with stage(tmp_path, envoy=[{"in_flight": [1] * 1000}], patience={"drain": 0.3}) as on:
        on.wait("agent", "heard")

        assert on.end(signal.SIGTERM)[0] == 0


def test_an_envoy_that_does_not_answer_its_admin_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    with stage(tmp_path, envoy=[{"dumb": True}]) as on:
        on.wait("agent", "heard")

        assert on.end(signal.SIGTERM)[0] == 0


def test_children_that_do_not_stop_are_killed_when_patience_ends(tmp_path: Path) -> None:
    parts = [{"stubborn": True, "says": ["ENVOY"]}]
    with stage(tmp_path, agent=parts, envoy=parts, patience={"agent_stop": 0.1, "envoy_stop": 0.1}) as on:
        pids = [on.wait("agent", "started")["pid"], on.wait("envoy", "started")["pid"]]
        on.wait("agent", "heard")

        code, log = on.end(signal.SIGTERM)

        assert code == 0
        assert all(gone(pid) for pid in pids)
        assert [line["child"] for line in log if line["event"] == "did not stop in time"] == ["agent", "envoy"]


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    parts = [{"stubborn": True, "says": ["ENVOY"]}]
    with stage(tmp_path, agent=parts, envoy=parts, patience={"agent_stop": 60, "envoy_stop": 60}) as on:
        pids = [on.wait("agent", "started")["pid"], on.wait("envoy", "started")["pid"]]
        on.wait("agent", "heard")

        on.keeper.send_signal(signal.SIGTERM)
        on.wait("agent", "SIGTERM")
        code, log = on.end(signal.SIGTERM)

        assert code == 0
        assert all(gone(pid) for pid in pids)
        assert not on.run.exists()
        assert "stopping at once" in [line["event"] for line in log]


def test_a_hangup_is_passed_to_the_agent(tmp_path: Path) -> None:
    with stage(tmp_path) as on:
        on.wait("agent", "heard")

        on.keeper.send_signal(signal.SIGHUP)

        on.wait("agent", "SIGHUP")
        assert on.keeper.poll() is None


def test_orphans_come_to_the_keeper_and_leave_no_zombie(tmp_path: Path) -> None:
    """Architecture 1: it is PID 1 in a container."""
    with stage(tmp_path, agent=[{"orphan": True}]) as on:
        orphan = on.wait("agent", "orphaned")
        assert orphan["parent"] == on.keeper.pid

        on.keeper.send_signal(signal.SIGHUP)  # it has gone through its loop once more when this has arrived
        on.wait("agent", "SIGHUP")
        assert gone(orphan["pid"])
        on.keeper.send_signal(signal.SIGHUP)
        on.wait("agent", "SIGHUP")
        assert not Path(f"/proc/{orphan['pid']}").exists()


def test_a_killed_keeper_takes_envoy_with_it_and_the_agent_hears_of_it(tmp_path: Path) -> None:
    """R-23: die with parent."""
    with stage(tmp_path) as on:
        agent = on.wait("agent", "started")
        envoy = on.wait("envoy", "started")
        on.wait("agent", "heard")

        on.keeper.kill()

        on.wait("envoy", "SIGTERM")
        on.wait("agent", "keeper gone")
        assert gone(envoy["pid"])
        assert gone(agent["pid"])


def test_the_next_keeper_sweeps_up_after_a_killed_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with stage(tmp_path / "a") as first:
        first.wait("envoy", "started")
        first.keeper.kill()
        first.wait("agent", "keeper gone")
        first.wait("envoy", "SIGTERM")
        assert (first.run / "pages.sock").is_socket()

        with stage(tmp_path / "b", environ={"RUNTIME_DIRECTORY": str(first.run)}) as second:
            pid = second.wait("agent", "started")["pid"]
            with visit(first.run / "pages.sock") as visitor:
                assert visitor.recv(100) == str(pid).encode()
            second.end(signal.SIGTERM)


def test_an_empty_directory_that_was_there_is_made_private_and_stays(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir(mode=0o755)
    with stage(tmp_path) as on:
        on.wait("agent", "heard")
        assert stat.S_IMODE(run.stat().st_mode) == 0o700

        assert on.end(signal.SIGTERM)[0] == 0

    assert list(run.iterdir()) == []


def test_what_others_have_in_the_directory_is_left_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir(mode=0o755)
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(run / "theirs.sock"))
        with stage(tmp_path) as on:
            on.wait("agent", "heard")
            assert stat.S_IMODE(run.stat().st_mode) == 0o755

            assert on.end(signal.SIGTERM)[0] == 0

    assert [path.name for path in run.iterdir()] == ["theirs.sock"]


def test_a_second_keeper_in_the_same_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with stage(tmp_path / "a") as first:
        first.wait("agent", "heard")

        with stage(tmp_path / "b", environ={"RUNTIME_DIRECTORY": str(first.run)}) as second:
            output, _ = second.keeper.communicate(timeout=TIMEOUT)

        assert second.keeper.returncode == 2
        assert "another pomerium-agent runs in" in output
        assert (first.run / "pages.sock").is_socket()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("file", "not a directory"), ("file/run", "cannot use"), ("x" * 100, "too long"), ("shared", "others may write")],
)
def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path, name: str, complaint: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "shared" / "of others").mkdir(parents=True)
    (tmp_path / "shared").chmod(0o1777)
    with stage(tmp_path, environ={"RUNTIME_DIRECTORY": str(tmp_path / name)}) as on:
        output, _ = on.keeper.communicate(timeout=TIMEOUT)

    assert on.keeper.returncode == 2
    assert output.startswith("RUNTIME_DIRECTORY: ")
    assert complaint in output


def test_systemd_hears_of_ready_of_life_and_of_the_end(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(TIMEOUT)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
        with stage(tmp_path, agent=[{"says": ["ENVOY", '{"op": "ready"}']}], environ=environ) as on:
            agent = on.wait("agent", "started")
            said = {systemd.recv(100) for _ in range(5)}
            on.end(signal.SIGTERM)
            systemd.setblocking(False)
            last = [systemd.recv(100)]
            while last[-1] != b"STOPPING=1":
                last.append(systemd.recv(100))

    assert said == {b"READY=1", b"WATCHDOG=1"}
    assert "NOTIFY_SOCKET" not in agent["environ"]


def test_nonsense_from_the_agent_is_logged_and_does_no_harm(tmp_path: Path) -> None:
    says = ["nonsense", '{"op": "dance"}', "x" * 100_000, "ENVOY"]
    with stage(tmp_path, agent=[{"says": says}]) as on:
        on.wait("agent", "heard")

        _, log = on.end(signal.SIGTERM)

    reasons = [line["reason"] for line in log if line["event"] == "line from the agent ignored"]
    assert reasons == ["not JSON", "an unknown op", "longer than 65536 bytes"]


def test_a_bootstrap_that_cannot_be_read_is_refused_in_words(tmp_path: Path) -> None:
    line = json.dumps({"op": "envoy", "argv": ["envoy"], "bootstrap": "/nowhere/x", "request": 5})
    with stage(tmp_path, agent=[{"says": [line]}]) as on:
        said = on.wait("agent", "heard")["said"]

    assert said["event"] == "envoy-refused"
    assert said["request"] == 5
    assert "/nowhere/x: No such file" in said["reason"]


def test_a_binary_that_cannot_be_started_is_tried_again_until_another_is_asked_for(tmp_path: Path) -> None:
    line = json.dumps({"op": "envoy", "argv": ["/nowhere/envoy"], "bootstrap": str(tmp_path / "bootstrap.json")})
    with stage(tmp_path, agent=[{"says": [line]}, {"says": ["ENVOY"]}]) as on:
        on.read_until("/nowhere/envoy")
        os.kill(on.wait("agent", "started")["pid"], signal.SIGKILL)

        on.wait("envoy", "started")


def test_an_agent_that_cannot_be_started_is_tried_again_and_the_keeper_still_stops(tmp_path: Path) -> None:
    with stage(tmp_path, argv=["/nowhere/agent"], patience={"first_pause": 0.01, "longest_pause": 0.02}) as on:
        for _ in range(3):
            on.read_until("cannot start")

        assert on.end(signal.SIGTERM)[0] == 0


def test_both_ends_of_the_line_understand_each_other(tmp_path: Path) -> None:
    """The agent's own end, runtime/keeper_link.py, in a real agent process."""
    program = tmp_path / "real.py"
    program.write_text("""
import asyncio, os, sys
from pathlib import Path
from pomerium_agent.runtime.keeper_link import adopt_sockets, open_keeper_link

async def main(argv, bootstrap):
    sockets = adopt_sockets(os.environ)
    async with open_keeper_link(os.environ) as link:
        pid = await link.start_envoy(argv, Path(bootstrap))
        await link.ready()
        with sockets["control"].dup() as control:
            client, _ = await asyncio.get_running_loop().sock_accept(control)
            client.sendall(str(pid).encode())
            client.close()
        await link.wait_gone()
    for sock in sockets.values():
        sock.close()

asyncio.run(main(sys.argv[1:-1], sys.argv[-1]))
""")
    bootstrap = str(tmp_path / "bootstrap.json")
    envoy = [sys.executable, str(tmp_path / "envoy.py"), str(tmp_path), bootstrap]
    with stage(tmp_path, argv=[sys.executable, str(program), *envoy, bootstrap]) as on:
        started = on.wait("envoy", "started")
        with visit(on.run / "control.sock") as client:
            assert client.recv(100) == str(started["pid"]).encode()
        on.keeper.kill()
        on.wait("envoy", "SIGTERM")
