"""`pomerium-agent explain` as a person and a pipeline meet it: words, JSON, exit codes, a file or a replica."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pomerium_agent.__main__ import main
from pomerium_agent.cli.explained import explained

ROUTES = """
routes:
  - from: https://wiki.example.com
    to: http://127.0.0.1:8080
    name: wiki
    policy:
      - allow:
          and:
            - groups: {has: engineers}
            - claim/level: 3
      - deny:
          or:
            - source_ip: 10.0.0.0/8
  - from: https://open.example.com
    to: http://127.0.0.1:8080
    allow_public_unauthenticated_access: true
  - from: https://bad.example.com
    to: http://127.0.0.1:8080
    regex: "^/(?!a)"
"""
WIKI = ("--url", "https://wiki.example.com/page")


@dataclass(frozen=True, slots=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, exit codes included."""

    def called(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["pomerium-agent", "explain", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return called


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "routes.yaml"
    path.write_text(ROUTES)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "code", "decision", "status"),
    [
        ((*WIKI, "--group", "engineers", "--claim", "level=3"), 0, "allow", 200),
        ((*WIKI, "--group", "engineers", "--claim", "level=3", "--ip", "10.1.2.3"), 1, "deny", 403),
        ((*WIKI, "--group", "engineers", "--claim", 'level="3"'), 1, "deny", 403),
        (WIKI, 4, "login", 302),
        (("--url", "https://open.example.com/"), 0, "allow", 200),
        (("--url", "https://bad.example.com/"), 1, "deny", 503),
        (("--url", "https://nobody.example.com/"), 1, "deny", 404),
    ],
)
def test_the_exit_code_is_the_decision(
    run: Run, file: str, arguments: tuple[str, ...], code: int, decision: str, status: int
) -> None:
    done = run(file, *arguments, "--json")

    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (code, "")
    assert (told["decision"], told["status"]) == (decision, status)
    assert {"decision", "status", "route", "allow_reasons", "deny_reasons", "policies", "change"} <= set(told)


def test_the_text_shows_each_criterion_and_the_smallest_change(run: Run, file: str) -> None:
    done = run(file, *WIKI, "--email", "bob@example.com", "--group", "sales", "--claim", "level=3")

    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[0] == "denied (403): groups-unauthorized"
    assert '      ✗ groups: wants has engineers, read ["sales"]  (groups-unauthorized)' in lines
    assert "      ✓ claim/level: wants 3, read [3]  (claim-ok)" in lines
    assert lines[-1] == "would be let in with group engineers"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "say what to explain"),
        (("no-such-file", *WIKI), "is no file"),
        (("--url", "https://a/", "--claim", "level"), "write --claim name=value"),
        (("--url", "https://a/", "--header", "=x"), "write --header name=value"),
        ((*WIKI, "--socket", "/nonexistent/control.sock"), "no replica answers"),
    ],
)
def test_what_cannot_be_asked_ends_with_2(run: Run, arguments: tuple[str, ...], words: str) -> None:
    done = run(*arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "--url: it is missing"),
        (("--url", "wiki.example.com"), "--url:"),
        ((*WIKI, "--ip", "10.0.0.0/8"), "--ip:"),
        ((*WIKI, "--socket", "x"), "--socket: a file is explained without a replica"),
    ],
)
def test_what_a_file_cannot_be_asked_ends_with_2(run: Run, file: str, arguments: tuple[str, ...], words: str) -> None:
    done = run(file, *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr


def test_a_file_that_cannot_be_read_whole_is_not_explained(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "routes.yaml"
    file.write_text("routes:\n  - from: https://a.example.com\n    timeout: 5 parsecs\n")

    done = run(str(file), "--url", "https://a.example.com/")

    assert (done.returncode, done.stdout) == (2, "")
    assert "routes.yaml:3: routes[0].timeout" in done.stderr
    assert "before this is corrected" in done.stderr


def test_what_a_visitor_wrote_cannot_steer_the_terminal(run: Run, file: str) -> None:
    done = run(file, *WIKI, "--email", "\x1b[2J\x9b@example.com", "--json")

    lines = explained(json.loads(done.stdout))

    assert all(line.isprintable() for line in lines)
    assert any("\\x1b[2J\\x9b@example.com" in line for line in lines)


def test_the_verb_stands_in_a_pipeline(file: str) -> None:
    """As a process of its own, with a locale that knows nothing."""
    argv = [sys.executable, "-m", "pomerium_agent", "explain", file, *WIKI]
    env = {"PATH": os.environ["PATH"], "HOME": "/nowhere"}

    done = subprocess.run(argv, capture_output=True, text=True, encoding="utf-8", env=env, timeout=60)

    assert (done.returncode, done.stderr) == (4, "")
    assert done.stdout.splitlines()[0].startswith("has to sign in (302)")
    assert "would be let in once signed in, with group engineers, with claim level=3" in done.stdout
