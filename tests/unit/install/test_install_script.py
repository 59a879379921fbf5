"""What install.sh checks and refuses, on made-up machines; the real one is tests/system."""

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "install.sh"
BASH = shutil.which("bash") or ""
TOKEN = "planted-token-4711"
DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12"\nID=debian\n'
RHEL = 'ID="rhel"\nID_LIKE="fedora"\n'
TIMEOUT = 30
Done = subprocess.CompletedProcess[str]

pytestmark = pytest.mark.skipif(not BASH, reason="no bash here: install it, install.sh is written for it")


@dataclass
class Machine:
    """A root to look at, and the answers of the programs that say what machine it is."""

    root: Path
    api: str
    programs: dict[str, str] = field(
        default_factory=lambda: {
            "uname": "x86_64",
            "getconf": "glibc 2.36",
            "systemctl": "systemd 252 (252.39-1)",
        }
    )

    def says(self, os_release: str) -> None:
        (self.root / "etc").mkdir(exist_ok=True)
        (self.root / "etc" / "os-release").write_text(os_release)

    def run(self, *arguments: str, **more: str) -> Done:
        """`curl … | env … bash -s ARGUMENTS` on that machine."""
        programs = self.root.parent / "programs"
        programs.mkdir(exist_ok=True)
        for name, answer in self.programs.items():
            (programs / name).write_text(f"#!/bin/sh\necho '{answer}'\n")
            (programs / name).chmod(0o755)
        environ = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "POMERIUM_AGENT_ROOT": str(self.root),
            "POMERIUM_AGENT_PYTHON": sys.executable,
            "POMERIUM_ZERO_TOKEN": TOKEN,
            "CLUSTER_API_ENDPOINT": self.api,
            "CONNECT_SERVER_ENDPOINT": self.api,
            "ADDRESS": f"127.0.0.1:{free_port()}",
        }
        return bash(SCRIPT.read_text(), *arguments, environ=environ | more)

    def refusal(self, **more: str) -> str:
        """What an install that is refused says."""
        done = self.run("--dry-run", "install", **more)
        assert done.returncode == 1
        assert "nothing was changed" in done.stderr
        return done.stderr


def bash(script: str, *arguments: str, environ: Mapping[str, str] | None = None, flags: str = "") -> Done:
    return subprocess.run(
        [BASH, *([flags] if flags else []), "-s", "--", *arguments],
        input=script,
        capture_output=True,
        text=True,
        env=environ,
        timeout=TIMEOUT,
        check=False,
    )


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Dated(BaseHTTPRequestHandler):
    """Answers with the date of its server."""

    date = ""

    def do_GET(self) -> None:
        self.send_response_only(404)
        self.send_header("Date", self.date or self.date_time_string())
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A Debian that has all it needs, and a control plane that answers."""
    handler = type("Handler", (Dated,), {})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        (tmp_path / "root").mkdir()
        made = Machine(tmp_path / "root", f"http://127.0.0.1:{server.server_port}/cluster/v1")
        made.says(DEBIAN)
        try:
            yield made
        finally:
            server.shutdown()
            serving.join()


@pytest.fixture
def late(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The same with a clock that is not the control plane's."""
    monkeypatch.setattr(Dated, "date", "Mon, 01 Jan 2035 00:00:00 GMT")
    return machine


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else b"" for path in root.rglob("*")}


def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "shellcheck", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout) == (0, "")


def test_a_script_that_was_cut_off_runs_nothing() -> None:
    """At every end of a line, within lines, and at each byte of the end: bash says what it executes."""
    script = SCRIPT.read_text()
    at = 0
    cuts = set(range(300)) | set(range(len(script) - 150, len(script) - 1)) | set(range(0, len(script), 211))
    for line in script.splitlines(keepends=True):
        at += len(line)
        cuts.add(at)
    end = len(script.rstrip())
    for cut in sorted(cut for cut in cuts if cut < end):
        done = bash(script[:cut], "install", environ={"PATH": "/nowhere"}, flags="-x")
        executed = [line for line in done.stderr.splitlines() if line.startswith("+")]
        assert executed == [], cut
        assert done.stdout == "", cut


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(machine: Machine) -> None:
    before = tree(machine.root)

    done = machine.run("--dry-run", "install")

    assert done.returncode == 0, done.stderr
    assert "write the token to" in done.stdout
    assert "Nothing was changed." in done.stdout
    assert TOKEN not in done.stdout + done.stderr
    assert tree(machine.root) == before


@pytest.mark.parametrize(
    "os_release", [DEBIAN, RHEL, "ID=ubuntu\nID_LIKE=debian\n", "ID=almalinux\nID_LIKE='rhel centos fedora'\n"]
)
def test_families_that_are_known(machine: Machine, os_release: str) -> None:
    machine.says(os_release)

    assert machine.run("--dry-run", "install").returncode == 0


@pytest.mark.parametrize("os_release", ["ID=alpine\n", "ID=arch\n", "ID=$(touch\t/nowhere/x)\n", ""])
def test_another_system_is_refused_in_words(machine: Machine, os_release: str) -> None:
    machine.says(os_release)

    assert "install.sh knows Debian, Ubuntu and the RHEL family" in machine.refusal()


@pytest.mark.parametrize(
    ("program", "answer", "words"),
    [
        ("uname", "armv7l", "the processor is armv7l"),
        ("getconf", "glibc 2.28", "glibc is 2.28; Envoy needs 2.31"),
        ("getconf", "", "the C library is not glibc"),
        ("systemctl", "systemd 239 (239-82.el8)", "systemd is 239"),
    ],
)
def test_a_machine_that_cannot_run_it_is_refused(machine: Machine, program: str, answer: str, words: str) -> None:
    machine.programs[program] = answer

    assert words in machine.refusal()


@pytest.mark.parametrize("glibc", ["2.31", "2.40", "3.0"])
def test_a_new_enough_libc_is_taken(machine: Machine, glibc: str) -> None:
    machine.programs["getconf"] = f"glibc {glibc}"

    assert machine.run("--dry-run", "install").returncode == 0


def test_a_port_that_is_taken_is_named(machine: Machine) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]

        assert f"port {port} (HEALTH_CHECK_ADDR) is taken" in machine.refusal(HEALTH_CHECK_ADDR=f"127.0.0.1:{port}")


@pytest.mark.parametrize("address", ["443", "localhost", ":x", ":1234567"])
def test_an_address_that_is_none_is_refused(machine: Machine, address: str) -> None:
    assert f"ADDRESS: '{address}' is not host:port" in machine.refusal(ADDRESS=address)


def test_a_name_that_cannot_be_resolved_is_named(machine: Machine) -> None:
    said = machine.refusal(CONNECT_SERVER_ENDPOINT="https://user@nowhere.invalid:8443/")

    assert "the name nowhere.invalid (CONNECT_SERVER_ENDPOINT) cannot be resolved" in said


def test_a_clock_that_is_off_is_refused(late: Machine) -> None:
    assert "seconds away from that of the control plane" in late.refusal()


def test_a_control_plane_that_is_away_is_no_reason_to_refuse(machine: Machine) -> None:
    done = machine.run("--dry-run", "install", CLUSTER_API_ENDPOINT=f"http://127.0.0.1:{free_port()}")

    assert done.returncode == 0
    assert "the clock was not compared" in done.stderr


@pytest.mark.parametrize(
    ("token", "words"),
    [("", "the token is empty"), (f"{TOKEN} x", "white space"), (f"{TOKEN}\n", "white space")],
)
def test_a_token_that_cannot_be_one_is_refused_without_showing_it(machine: Machine, token: str, words: str) -> None:
    said = machine.refusal(POMERIUM_ZERO_TOKEN=token)

    assert words in said
    assert TOKEN not in said


def test_a_token_file_that_cannot_be_read_is_named(machine: Machine, tmp_path: Path) -> None:
    script = SCRIPT.read_text().replace("constants() {", "constants() {\n    unset POMERIUM_ZERO_TOKEN", 1)
    environ = {
        "PATH": os.environ["PATH"],
        "POMERIUM_AGENT_ROOT": str(machine.root),
        "POMERIUM_ZERO_TOKEN_FILE": str(tmp_path / "missing"),
    }

    assert "POMERIUM_ZERO_TOKEN_FILE: cannot read" in bash(script, "--dry-run", "install", environ=environ).stderr


def test_a_setting_that_cannot_be_kept_is_refused(machine: Machine) -> None:
    assert "LOG_LEVEL: quotes" in machine.refusal(LOG_LEVEL='info"\nADDRESS=":1')


def test_everything_that_is_wrong_is_said_at_once(machine: Machine) -> None:
    machine.programs["uname"] = "riscv64"
    machine.says("ID=alpine\n")

    said = machine.refusal(POMERIUM_ZERO_TOKEN="")

    assert said.count("\n  - ") == 3


def test_a_wheel_must_have_the_hash_that_was_said(machine: Machine, tmp_path: Path) -> None:
    wheel = tmp_path / "pomerium_agent-1.0-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    good = hashlib.sha256(b"a wheel").hexdigest()
    options = ("--dry-run", "install", "--from", str(wheel), "--sha256")

    assert machine.run(*options, good.upper()).returncode == 0
    assert "does not have the hash" in machine.run(*options, "0" * 64).stderr


def test_a_directory_of_wheels_is_what_its_sums_say(machine: Machine, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "pomerium_agent-1.0-py3-none-any.whl").write_bytes(b"a wheel")
    sums = f"{hashlib.sha256(b'a wheel').hexdigest()}  pomerium_agent-1.0-py3-none-any.whl\n"
    (wheels / "SHA256SUMS").write_text(sums)
    of_sums = hashlib.sha256(sums.encode()).hexdigest()
    given = {"POMERIUM_AGENT_FROM": str(wheels)}

    assert machine.run("--dry-run", "install", "--sha256", of_sums, **given).returncode == 0
    (wheels / "slipped_in-1.0-py3-none-any.whl").write_bytes(b"another")
    assert "slipped_in-1.0-py3-none-any.whl is not in" in machine.refusal(**given)
    (wheels / "slipped_in-1.0-py3-none-any.whl").unlink()
    (wheels / "pomerium_agent-1.0-py3-none-any.whl").write_bytes(b"a false wheel")
    assert "not what SHA256SUMS there says" in machine.refusal(**given)


def test_a_hash_without_a_file_is_refused(machine: Machine) -> None:
    assert "--sha256 is about the file" in machine.refusal(POMERIUM_AGENT_SHA256="0" * 64)


@pytest.mark.parametrize(
    "arguments", [("instal",), ("install", "status"), ("install", "--from"), ("--wait", "x", "install")]
)
def test_what_is_not_understood_is_refused(machine: Machine, arguments: tuple[str, ...]) -> None:
    done = machine.run(*arguments)

    assert done.returncode == 1
    assert done.stderr.startswith("install.sh: ")


def test_another_root_is_only_looked_at(machine: Machine) -> None:
    before = tree(machine.root)

    for verb in ("install", "uninstall", "rollback"):
        assert "POMERIUM_AGENT_ROOT is for --dry-run only" in machine.run(verb).stderr
    assert tree(machine.root) == before


def test_version_says_what_is_installed(machine: Machine) -> None:
    assert machine.run("--version").stdout == "install.sh 0.1.0, installed: nothing\n"
    release = machine.root / "opt" / "pomerium-agent" / "versions" / "3"
    release.mkdir(parents=True)
    (release / "release").write_text("1.2.3\n")
    (release.parents[1] / "current").symlink_to("versions/3")
    assert machine.run("--version").stdout == "install.sh 0.1.0, installed: pomerium-agent 1.2.3\n"
    assert machine.run("status").returncode == 1


def settings_file(tmp_path: Path, before: str, **said: str) -> str:
    """What the script makes of a settings file."""
    functions = SCRIPT.read_text().removesuffix('main "$@"; }\n')
    (tmp_path / "agent.env").write_text(before)
    calls = 'set -euo pipefail; constants; ETC=$KEPT; write_settings; cat "$ETC/agent.env"; }'
    done = bash(functions + calls, environ={"PATH": os.environ["PATH"], "KEPT": str(tmp_path)} | said)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_somebody_wrote_into_the_settings_stays(tmp_path: Path) -> None:
    by_hand = '# ours\nHTTPS_PROXY=http://proxy:3128\nADDRESS=:8443\nLOG_LEVEL="debug"\n'

    once = settings_file(tmp_path, by_hand, POMERIUM_AGENT_DRAIN_SECONDS="30", LOG_LEVEL="")
    again = settings_file(tmp_path, once)

    assert once == again
    assert once.splitlines()[1:] == [
        'ADDRESS=":8443"',
        'POMERIUM_AGENT_DRAIN_SECONDS="30"',
        "# ours",
        "HTTPS_PROXY=http://proxy:3128",
    ]


def test_every_setting_of_a_machine_is_kept() -> None:
    """Those of the table in docs/operating.md, but the token and the places that the service gives."""
    table = (ROOT / "docs" / "operating.md").read_text().partition("| Variable |")[2].partition("\n\n")[0]
    documented = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    given = {"POMERIUM_ZERO_TOKEN", "POMERIUM_ZERO_TOKEN_FILE", "BOOTSTRAP_CONFIG_FILE", "POMERIUM_ENVOY_PATH"}
    kept = SCRIPT.read_text().partition('SETTINGS="')[2].partition('"')[0].replace("\\\n", "").split()

    assert documented - given - {"RUNTIME_DIRECTORY", "STATE_DIRECTORY"} == set(kept)


def test_the_time_to_become_ready_begins_when_the_one_before_has_left() -> None:
    """R-23: it may drain for longer than the next one is waited for."""
    functions = SCRIPT.read_text().removesuffix('main "$@"; }\n')
    calls = """set -euo pipefail; constants; WAIT=90; SECONDS=0
        sleep() { SECONDS=$((SECONDS + 1)); }
        state_of() {
            case $1 in
            ActiveState) if [ "$SECONDS" -lt 300 ]; then echo deactivating; else echo "$THEN"; fi ;;
            *) echo 0 ;;
            esac
        }
        is_ready() { [ "$SAYS" = ready ]; }
        if becomes_ready; then echo ready; else echo "$WHY"; fi; }"""

    def said(then: str, says: str = "ready") -> str:
        return bash(functions + calls, environ={"PATH": os.environ["PATH"], "THEN": then, "SAYS": says}).stdout

    assert said("active") == "ready\n"
    assert said("activating") == "it was not ready after 90 seconds\n"
    # systemd hears only of the keeper, below which an agent may end again and again.
    assert said("active", says="no") == "it was not ready after 90 seconds\n"
