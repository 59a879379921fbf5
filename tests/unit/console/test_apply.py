"""From a file to a new version: only what is right, and only when it differs."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pomerium_agent.console.apply import Applied, apply_file
from pomerium_agent.console.clusters import create_cluster
from pomerium_agent.console.complaints import FileRefused
from pomerium_agent.console.store import NoSuchCluster, Store, open_store
from tests.fakes.console import MIXED, QUICKSTART

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GOOD = """\
routes:
- from: https://good.example.com
  to: http://good.internal
  allow_public_unauthenticated_access: true
"""
BAD = GOOD + "- from: https://bad.example.com\n  to: http://bad.internal\n  regex: '^/(?!x)'\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(tmp_path / "data") as opened:
        create_cluster(opened, "demo", now=NOW)
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def apply(store: Store, file: Path, text: str, *, allow_faulty: bool = False, dry_run: bool = False) -> Applied:
    file.write_text(text)
    return apply_file(store, "demo", file, now=NOW, allow_faulty=allow_faulty, dry_run=dry_run)


@pytest.mark.parametrize("sample", [QUICKSTART, MIXED])
def test_the_samples_are_applied(store: Store, sample: Path) -> None:
    applied = apply_file(store, "demo", sample, now=NOW)

    assert applied.stored
    assert applied.version == 2
    assert len(applied.changes.added) == len(store.config(applied.cluster.id).config.routes)


def test_the_version_grows_only_when_something_changes(store: Store, file: Path) -> None:
    first = apply(store, file, GOOD)
    again = apply(
        store, file, "# the same, in other words\n" + GOOD.replace("https", '"https').replace(".com", '.com"')
    )
    changed = apply(store, file, GOOD + "  timeout: 5s\n")

    assert (first.version, again.version, changed.version) == (2, 2, 3)
    assert not again.stored
    assert not again.changes
    assert [change.fields for change in changed.changes.changed] == [("timeout",)]


def test_a_route_that_replicas_would_quarantine_is_refused_with_file_line_and_reason(store: Store, file: Path) -> None:
    with pytest.raises(FileRefused) as refused:
        apply(store, file, BAD)

    (complaint,) = refused.value.complaints
    assert (complaint.file, complaint.line, complaint.path) == (str(file), 7, "routes[1].regex")
    assert "RE2 refuses" in complaint.reason
    assert complaint.remedy
    assert f"{file}:7: routes[1].regex: RE2 refuses" in str(refused.value)
    assert store.cluster("demo").version == 1


def test_what_replicas_would_quarantine_is_stored_when_the_operator_says_so(store: Store, file: Path) -> None:
    applied = apply(store, file, BAD, allow_faulty=True)

    assert applied.stored
    assert [(fault.line, fault.path) for fault in applied.faults] == [(7, "routes[1].regex")]
    assert len(store.config(applied.cluster.id).config.routes) == 2


def test_what_cannot_be_read_is_refused_whatever_the_operator_says(store: Store, file: Path) -> None:
    with pytest.raises(FileRefused, match="prefx"):
        apply(store, file, GOOD + "  prefx: /a\n", allow_faulty=True)

    assert store.cluster("demo").version == 1


def test_faults_of_both_kinds_are_said_at_once(store: Store, file: Path) -> None:
    with pytest.raises(FileRefused, match="2 things are wrong") as refused:
        apply(store, file, BAD + "- from: https://other.example.com\n  to: http://other\n  prefx: /a\n")

    assert [complaint.path for complaint in refused.value.complaints] == ["routes[1].regex", "routes[2].prefx"]


@pytest.mark.parametrize(
    ("text", "line", "path"),
    [
        ("routes:\n- from: https://a.example.com/path\n  to: http://a\n", 2, "routes[0].from"),
        ("routes:\n- from: https://a.example.com\n", 2, "routes[0]"),
        ("routes:\n- to: http://a\n", 2, "routes[0]"),
        (
            "log_level: info\nroutes:\n- from: https://a.example.com\n  to:\n  - http://a\n  - ftp://b\n",
            6,
            "routes[0].to",
        ),
        ("timeout_idle: -1s\n", 1, "timeout_idle"),
    ],
)
def test_a_fault_is_said_at_the_line_of_what_it_is_about(
    store: Store, file: Path, text: str, line: int, path: str
) -> None:
    with pytest.raises(FileRefused) as refused:
        apply(store, file, text)

    assert any(each.line == line and each.path.startswith(path) for each in refused.value.complaints), refused.value


def test_a_dry_run_changes_nothing(store: Store, file: Path) -> None:
    applied = apply(store, file, GOOD, dry_run=True)

    assert applied.changes
    assert not applied.stored
    assert store.cluster("demo").version == 1


def test_what_is_left_out_is_a_warning_and_the_rest_is_applied(store: Store, file: Path) -> None:
    applied = apply(store, file, "shared_secret: abc\n" + GOOD)

    assert applied.stored
    assert [each.path for each in applied.warnings] == ["shared_secret"]


def test_an_unknown_cluster_is_refused_before_anything_is_read(store: Store, file: Path) -> None:
    with pytest.raises(NoSuchCluster):
        apply_file(store, "nobody", file, now=NOW)


def test_the_starter_certificate_stays_whatever_is_applied(store: Store, file: Path) -> None:
    applied = apply(store, file, GOOD)

    assert not store.config(applied.cluster.id).config.settings.certificates
    assert store.certificate(applied.cluster.id) is not None
