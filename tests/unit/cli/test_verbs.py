"""The command line as a person meets it: answers, complaints, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pomerium_agent.__main__ import exit_code
from pomerium_agent.cli.run import argv_of
from pomerium_agent.errors import ConfigRejected, ControlPlaneUnavailable, Refused, SettingsError

GOOD = """
routes:
  - from: https://docs.example.com
    to: http://127.0.0.1:8080
    allow_public_unauthenticated_access: true
"""
BAD = """
routes:
  - from: https://docs.example.com
    to: http://127.0.0.1:8080
    regex: "^/(?!a)"
  - from: https://other.example.com
    to: http://127.0.0.1:8080
    timeout: 5 parsecs
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": "/nowhere", **environment}
    return subprocess.run(
        [sys.executable, "-m", "pomerium_agent", *arguments], capture_output=True, text=True, env=env, timeout=60
    )


def test_a_good_file_is_valid(tmp_path: Path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(GOOD)

    done = run("validate", str(file))

    assert (done.returncode, done.stderr) == (0, "")
    assert "1 route, nothing is wrong" in done.stdout


def test_everything_wrong_in_a_file_is_listed_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(BAD)

    done = run("validate", str(file))

    assert done.returncode == 2
    assert "routes.yaml:5: routes[0].regex" in done.stderr
    assert "routes.yaml:8: routes[1].timeout" in done.stderr
    assert "Traceback" not in done.stderr


def test_validation_can_be_read_by_a_program(tmp_path: Path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text(BAD)

    found = json.loads(run("validate", str(file), "--json").stdout)

    assert not found["valid"]
    assert [each["line"] for each in found["complaints"]] == [5, 8]


def test_without_a_token_run_says_what_to_set_and_ends_with_2() -> None:
    """Z-1."""
    done = run("run")

    assert done.returncode == 2
    assert "POMERIUM_ZERO_TOKEN" in done.stderr


def test_a_replica_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    done = run("status", "--socket", str(tmp_path / "control.sock"))

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no replica answers" in done.stderr


def test_the_version_names_agent_protocol_and_envoy() -> None:
    done = run("version")

    assert done.returncode == 0
    assert all(word in done.stdout for word in ("pomerium-agent", "protocol", "envoy 1.40"))


def test_the_agent_is_not_a_verb_to_call_by_hand() -> None:
    done = run("agent", POMERIUM_ZERO_TOKEN="token")

    assert done.returncode == 2
    assert "pomerium-agent run" in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("no"), 3),
        (SettingsError("wrong"), 2),
        (ExceptionGroup("outer", [ExceptionGroup("inner", [Refused("no")]), ControlPlaneUnavailable("away")]), 3),
        (ConfigRejected("cut short"), 1),
        (KeyError("bug"), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Architecture 8: exit codes are an interface."""
    assert exit_code(error) == code
    assert ("KeyError" in capsys.readouterr().err) == isinstance(error, KeyError)


def test_the_agent_does_not_run_what_lies_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit(99)")
    env = {"PATH": os.environ["PATH"], "HOME": "/nowhere", "POMERIUM_ZERO_TOKEN": "t"}

    done = subprocess.run(argv_of("agent", None), capture_output=True, text=True, env=env, cwd=tmp_path, timeout=60)

    assert done.returncode == 2
    assert "is started by `pomerium-agent run`" in done.stderr
