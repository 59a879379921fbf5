"""`import`, `export` and `diff` as a person and a pipeline meet them, against a real console."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pomerium_agent.__main__ import exit_code
from pomerium_agent.cli.app import app
from pomerium_agent.console.clusters import create_cluster
from pomerium_agent.console.core_config import read_core_config
from pomerium_agent.console.route_names import name_routes
from pomerium_agent.console.store import open_store
from tests.fakes.console import MIXED, NOW, QUICKSTART, Visit, visited_console

LOSSY = """\
shared_secret: hunter2hunter2
autocert: true
routes:
- {from: https://a.example.com, to: http://a, allow_any_authenticated_user: true}
"""
FAULTY = "routes:\n- {from: https://a.example.com, to: http://a, regex: '(?!x)'}\n"
BROKEN = "routes:\n- {from: https://a.example.com, two: http://a}\n"


@dataclass(frozen=True, slots=True)
class Done:
    code: int
    stdout: str
    stderr: str


def type_in(*words: object, env: dict[str, str | None] | None = None) -> Done:
    """Run a verb; errors end as they would in `__main__`, without the process."""
    done = CliRunner().invoke(app, [str(word) for word in words], env=env)
    error = done.exception
    if error is None or isinstance(error, SystemExit):
        return Done(done.exit_code, done.stdout, done.stderr)
    return Done(exit_code(error), done.stdout, done.stderr + str(error))


async def at(visit: Visit, *words: object, token: str | None = None) -> Done:
    """Run a verb beside a console that serves, with the token of its cluster in the environment."""
    env: dict[str, str | None] = {
        "POMERIUM_ZERO_TOKEN": visit.token if token is None else token,
        "CLUSTER_API_ENDPOINT": visit.console.cluster_api,
        "POMERIUM_CONSOLE_DATA": str(visit.console.data_dir),
    }
    return await asyncio.to_thread(type_in, *words, env=env)


def told_by(done: Done) -> dict[str, Any]:
    """The JSON; the console, in the same process, may have logged before it."""
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{\n") :])
    return found


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        return file

    return written


# --- import ---------------------------------------------------------------------------------------


async def test_an_existing_configuration_is_imported_with_names_for_its_routes(tmp_path: Path) -> None:
    """Z-67: messages are printed."""
    async with visited_console(tmp_path / "data") as visit:
        done = await at(visit, "import", QUICKSTART)

        stored = visit.console.store.config(visit.cluster.id)
    assert done.code == 0, done
    assert "cluster demo is now at version 2" in done.stdout
    assert done.stdout.endswith("2 routes imported\n")
    assert stored.config == name_routes(read_core_config(QUICKSTART).config)
    assert stored.reason.startswith("imported from ")


async def test_what_is_lost_is_told_with_file_and_line(tmp_path: Path, write: Write) -> None:
    """Z-67: warnings are printed. No secret is."""
    file = write(LOSSY)
    async with visited_console(tmp_path / "data") as visit:
        done = await at(visit, "import", file)
        told = told_by(await at(visit, "import", file, "--json"))

    assert done.code == 0
    assert f"warning: {file}:1: shared_secret: left out" in done.stderr
    assert f"warning: {file}:2: autocert: left out" in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert [(each["line"], each["path"]) for each in told["lost"]] == [(1, "shared_secret"), (2, "autocert")]
    assert told["sent"]
    assert told["routes"] == 1


async def test_a_dry_run_sends_nothing_and_needs_no_token(tmp_path: Path, write: Write) -> None:
    async with visited_console(tmp_path / "data") as visit:
        done = await at(visit, "import", write(LOSSY), "--dry-run", token="")

        assert visit.console.store.cluster(visit.cluster.id).version == 1
    assert done.code == 0
    assert "1 route would be sent" in done.stdout
    assert "shared_secret" in done.stderr


async def test_a_file_with_a_mistake_is_not_sent(tmp_path: Path, write: Write) -> None:
    async with visited_console(tmp_path / "data") as visit:
        broken = await at(visit, "import", write(BROKEN), "--allow-faulty")
        faulty = await at(visit, "import", write(FAULTY))
        told = told_by(await at(visit, "import", write(FAULTY), "--json"))

        assert visit.console.store.cluster(visit.cluster.id).version == 1
        anyway = await at(visit, "import", write(FAULTY), "--allow-faulty")

    assert (broken.code, faulty.code, anyway.code) == (2, 2, 0)
    assert "two" in broken.stderr
    assert "regex" in faulty.stderr
    assert told["sent"] is False
    assert told["refused"][0]["line"] == 2
    assert "FAULTY" in anyway.stderr
    assert "left out by replicas" in anyway.stderr


async def test_a_refused_token_and_a_refused_import_end_differently(tmp_path: Path) -> None:
    """Z-66, and zero link 17: 403 is an error of the import, exit 1."""
    async with visited_console(tmp_path / "data") as visit:
        wrong = await at(visit, "import", QUICKSTART, token="pct_wrong")
        none = await at(visit, "import", QUICKSTART, token="")
        async with visit.subscribed(await visit.bearer()):
            await visit.console.presence.written()
            late = await at(visit, "import", QUICKSTART)

    assert (wrong.code, none.code, late.code) == (3, 2, 1)
    assert "console apply" in late.stderr


# --- export ---------------------------------------------------------------------------------------


async def test_what_was_applied_can_be_written_and_applied_again(tmp_path: Path) -> None:
    out = tmp_path / "out.yaml"
    async with visited_console(tmp_path / "data") as visit:
        visit.apply(MIXED)
        printed = await at(visit, "console", "export", "--cluster", "demo")
        done = await at(visit, "console", "export", "--cluster", "demo", "-o", out)
        again = await at(visit, "console", "apply", "-f", out, "--cluster", "demo")

    assert done.code == 0, done
    assert printed.stdout == out.read_text()
    assert out.stat().st_mode & 0o777 == 0o600
    assert "nothing changes" in again.stdout


def test_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    with open_store(tmp_path / "data") as store:
        create_cluster(store, "demo", now=NOW)
    out = tmp_path / "absent" / "out.yaml"

    done = type_in(
        "console", "export", "--cluster", "demo", "-o", out, env={"POMERIUM_CONSOLE_DATA": str(tmp_path / "data")}
    )

    assert done.code == 2
    assert "cannot be written" in done.stderr


# --- diff -----------------------------------------------------------------------------------------


async def test_a_difference_is_told_and_makes_an_exit_code(tmp_path: Path, write: Write) -> None:
    text = QUICKSTART.read_text().replace("user@example.com", "ada@example.com")
    async with visited_console(tmp_path / "data") as visit:
        visit.apply(QUICKSTART)
        same = await at(visit, "diff", QUICKSTART, "--cluster", "demo")
        other = await at(visit, "diff", write(text), "--cluster", "demo")
        told = told_by(await at(visit, "diff", write(text), "--cluster", "demo", "--json"))

    assert (same.code, same.stdout) == (0, "nothing changes\n")
    assert other.code == 1
    lines = other.stdout.splitlines()
    assert lines[0] == "~ route https://verify.localhost.pomerium.io → http://verify:8000: policy"
    assert lines[2:] == ["  + gains access: ada@example.com", "  - loses access: user@example.com"]
    assert told["differs"] is True
    assert told["access"][0]["gains"] == ["ada@example.com"]


async def test_what_cannot_be_compared_ends_with_two(tmp_path: Path, write: Write) -> None:
    async with visited_console(tmp_path / "data") as visit:
        broken = await at(visit, "diff", write(BROKEN), "--cluster", "demo")
        both = await at(visit, "diff", QUICKSTART, "--cluster", "demo", "--socket", tmp_path / "x")
        nowhere = await at(visit, "diff", QUICKSTART, "--cluster", "absent")
        nobody = await at(visit, "diff", QUICKSTART, "--socket", tmp_path / "absent.sock")

    assert {each.code for each in (broken, both, nowhere, nobody)} == {2}


# --- hosts ----------------------------------------------------------------------------------------


def test_names_and_addresses_are_written_for_those_who_resolve_them(tmp_path: Path) -> None:
    env: dict[str, str | None] = {"POMERIUM_CONSOLE_DATA": str(tmp_path / "data")}
    out = tmp_path / "zone"
    for name in ("one", "two"):
        assert type_in("console", "cluster", "create", name, "--domain", f"{name}.example.com", env=env).code == 0

    said = type_in("console", "cluster", "set-address", "one", "192.0.2.1", env=env)
    hosts = type_in("console", "hosts", env=env)
    zone = type_in("console", "hosts", "--cluster", "one", "--format", "zone", "-o", out, env=env)
    both = type_in("console", "hosts", "--format", "zone", env=env)
    wrong = type_in("console", "cluster", "set-address", "one", "nowhere", env=env)
    back = type_in("console", "cluster", "set-address", "one", "detected", env=env)

    assert said.stdout == "the names of one.example.com lead to 192.0.2.1\n"
    assert "192.0.2.1\tone.example.com\n" in hosts.stdout
    assert "# two: two.example.com\n# no replica has been seen yet" in hosts.stdout
    assert zone.code == 0
    assert "* IN A 192.0.2.1\n" in out.read_text()
    assert (both.code, wrong.code) == (2, 2)
    assert "no address yet" in back.stdout
