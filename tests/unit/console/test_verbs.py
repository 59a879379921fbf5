"""The verbs of `console`, as a person types them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pomerium_agent.cli.console import console_app
from pomerium_agent.cli.console_options import default_data_dir
from pomerium_agent.console.store import open_store
from pomerium_agent.console.words import ago
from pomerium_agent.errors import SettingsError
from tests.fakes.console import QUICKSTART
from tests.unit.console.typed import refused, type_in

GOOD = "routes:\n- {from: https://a.example.com, to: http://a, allow_public_unauthenticated_access: true}\n"


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POMERIUM_CONSOLE_DATA", str(tmp_path / "data"))


def test_a_new_cluster_is_shown_with_all_that_a_replica_needs() -> None:
    said = type_in("cluster", "create", "demo", "--domain", "demo.example.com")

    assert "demo.example.com" in said
    assert "POMERIUM_ZERO_TOKEN=pct_" in said
    assert "CLUSTER_API_ENDPOINT=http://127.0.0.1:8700/cluster/v1" in said
    assert "CONNECT_SERVER_ENDPOINT=http://127.0.0.1:8701" in said
    assert "POMERIUM_OTEL_ENDPOINT=http://127.0.0.1:8701" in said


def test_a_new_cluster_is_told_to_programs_too(tmp_path: Path) -> None:
    made = json.loads(type_in("cluster", "create", "demo", "--json"))

    assert made["token"].startswith("pct_")
    assert made["domain"].endswith(".pomerium.localhost")
    assert Path(made["ca_file"]).read_text() == made["ca"]
    assert Path(made["ca_file"]).parent == tmp_path / "data"


def test_a_token_is_shown_once_and_a_storage_never() -> None:
    made = json.loads(type_in("cluster", "create", "demo", "--storage", "postgres://ada:hunter2@db/agents", "--json"))

    for said in (
        type_in("cluster", "show", "demo"),
        type_in("cluster", "show", "demo", "--json"),
        type_in("cluster", "list", "--json"),
        type_in("status", "--json"),
    ):
        assert made["token"] not in said
        assert "hunter2" not in said
    assert json.loads(type_in("cluster", "show", "demo", "--json"))["storage"] == "postgres"


def test_a_storage_is_read_from_a_file_without_its_last_line_break(tmp_path: Path) -> None:
    """Z-23: so that no password is among the arguments; nothing that is said shows it."""
    type_in("cluster", "create", "demo")
    file = tmp_path / "storage"
    file.write_text("postgres://ada:hunter2@db/agents\n")

    assert "hunter2" not in type_in("cluster", "set-storage", "demo", "--from-file", str(file))

    with open_store(tmp_path / "data", create=False) as store:
        assert store.secrets(store.cluster("demo").id).storage == "postgres://ada:hunter2@db/agents"


@pytest.mark.parametrize(
    ("content", "words", "complaint"),
    [
        ("", (), "storage"),
        ("\n", (), "storage"),
        ("mysql://ada:hunter2@db/agents\n", (), "storage"),
        ("memory", ("memory",), "one of the two"),
        (None, (), "cannot read"),
    ],
)
def test_a_file_without_a_storage_is_refused_and_changes_nothing(
    tmp_path: Path, content: str | None, words: tuple[str, ...], complaint: str
) -> None:
    """Z-23."""
    type_in("cluster", "create", "demo", "--storage", "file:///var/lib/records")
    file = tmp_path / "storage"
    if content is not None:
        file.write_text(content)

    said = refused("cluster", "set-storage", "demo", *words, "--from-file", str(file))

    assert complaint in said
    assert "hunter2" not in said
    with open_store(tmp_path / "data", create=False) as store:
        assert store.secrets(store.cluster("demo").id).storage == "file:///var/lib/records"


def test_a_rotated_token_is_another_one() -> None:
    before = json.loads(type_in("cluster", "create", "demo", "--json"))["token"]

    after = json.loads(type_in("cluster", "rotate-token", "demo", "--json"))["token"]

    assert after != before
    assert "POMERIUM_ZERO_TOKEN=pct_" in type_in("cluster", "rotate-token", "demo", "--overlap", "0")


def test_the_verbs_rotate_with_an_overlap_and_end_it() -> None:
    type_in("cluster", "create", "demo")

    said = json.loads(type_in("cluster", "rotate-token", "demo", "--json"))

    assert said["token"].startswith("pct_")
    assert said["tokens"]["old"]["fingerprint"] != said["tokens"]["fingerprint"]
    assert "the old one" in type_in("status")
    assert "refused now" in type_in("cluster", "end-overlap", "demo")
    assert "the old one" not in type_in("status")
    assert "nothing to end" in type_in("cluster", "end-overlap", "demo")


def test_applying_says_what_changes_and_the_second_time_nothing() -> None:
    type_in("cluster", "create", "demo")

    first = type_in("apply", "-f", str(QUICKSTART), "--cluster", "demo").splitlines()
    second = type_in("apply", "-f", str(QUICKSTART), "--cluster", "demo").splitlines()

    assert first == [
        "+ route https://verify.localhost.pomerium.io → http://verify:8000",
        "+ route https://hello.localhost.pomerium.io → http://hello:8080",
        "~ settings: authenticate_service_url",
        "cluster demo is now at version 2",
        "no console is serving this data directory: replicas hear of it when one does",
    ]
    assert second == ["nothing changes: cluster demo stays at version 2"]


def test_applying_says_it_to_programs_too(tmp_path: Path) -> None:
    type_in("cluster", "create", "demo")
    file = tmp_path / "config.yaml"
    file.write_text(GOOD)

    dry = json.loads(type_in("apply", "-f", str(file), "--cluster", "demo", "--dry-run", "--json"))
    done = json.loads(type_in("apply", "-f", str(file), "--cluster", "demo", "--json"))

    assert (dry["stored"], dry["version"]) == (False, 1)
    assert (done["stored"], done["version"], done["console_told"]) == (True, 2, False)
    assert [each["route"] for each in done["changes"]["added"]] == ["https://a.example.com → http://a"]


def test_a_refused_file_is_said_line_by_line_to_people_and_as_json_to_programs(tmp_path: Path) -> None:
    type_in("cluster", "create", "demo")
    file = tmp_path / "config.yaml"
    file.write_text(GOOD + "log_levle: info\ntimeout_idle: soon\n")

    text = refused("apply", "-f", str(file), "--cluster", "demo")
    done = CliRunner().invoke(console_app, ["apply", "-f", str(file), "--cluster", "demo", "--json"])

    assert text.startswith("nothing was changed, since 2 things are wrong:\n")
    assert f"{file}:3: log_levle: the key log_levle means nothing here; did you mean log_level?" in text
    assert f"{file}:4: timeout_idle: 'soon' is not a duration" in text
    assert isinstance(done.exception, SettingsError)  # exit code 2
    assert [each["line"] for each in json.loads(done.stdout)["refused"]] == [3, 4]


def test_status_without_a_console_says_so() -> None:
    type_in("cluster", "create", "demo")

    said = type_in("status")

    assert said.startswith("no console is serving this data directory: this is what was known last\n")
    assert "no replica has been seen yet" in said
    assert json.loads(type_in("status", "--cluster", "demo", "--json"))["console_runs"] is False


@pytest.mark.parametrize("words", [("cluster", "list"), ("status",), ("apply", "-f", "x", "--cluster", "demo")])
def test_a_place_without_a_console_is_named(words: tuple[str, ...]) -> None:
    assert "holds no console" in refused(*words)


def test_the_default_place_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert default_data_dir() == Path("/somewhere/pomerium-agent/console")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert default_data_dir() == Path("/home/ada/.local/share/pomerium-agent/console")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"), (200_000, "2 d ago")],
)
def test_how_long_ago_is_said_in_one_unit(seconds: int, said: str) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)

    assert ago(now - timedelta(seconds=seconds), now) == said
