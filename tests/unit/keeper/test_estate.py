"""What one keeper leaves to the next."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pomerium_agent.cli.run import argv_of
from pomerium_agent.keeper.estate import Estate, code_digest, read_estate
from pomerium_agent.keeper.renewal import adopted_estate

LEFT = Estate(
    code="c",
    runtime_dir="/run/x",
    created=True,
    lock=3,
    listening={"pages": 4},
    instance="i",
    agent={"pid": 7, "link": 5},
    envoy={},
    caller=6,
)


def test_what_is_left_is_found_again_and_names_what_must_stay_open() -> None:
    number = LEFT.write()
    try:
        assert read_estate(number) == LEFT
        assert adopted_estate({"POMERIUM_AGENT_ADOPT": str(number)}) == LEFT
    finally:
        os.close(number)
    assert LEFT.descriptors == [3, 4, 5, 6]
    assert replace(LEFT, caller=0).descriptors == [3, 4, 5]


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", json.dumps({"format": 2}).encode(), b'{"format": 1}'])
def test_what_cannot_be_taken_over_is_refused_in_words(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "left").write_bytes(text)
    with (tmp_path / "left").open("rb") as file, pytest.raises(ValueError, match="what the running keeper leaves"):
        read_estate(file.fileno())


def test_nothing_was_left_to_a_keeper_that_is_started_by_a_person() -> None:
    assert adopted_estate({}) is None
    with pytest.raises(ValueError, match="not for people"):
        adopted_estate({"POMERIUM_AGENT_ADOPT": "x"})


def test_the_digest_of_the_code_is_of_what_is_on_disk() -> None:
    assert code_digest() == code_digest()
    assert len(code_digest()) == 64


def test_what_is_started_next_is_what_is_installed_by_then(tmp_path: Path) -> None:
    """A release is installed beside the one that runs, and a link leads from the one to the other."""
    for release in ("1", "2"):
        (tmp_path / release / "bin").mkdir(parents=True)
        (tmp_path / release / "bin" / "pomerium-agent").touch()
    link = tmp_path / "current"
    program = str(link / "bin" / "pomerium-agent")
    for release in ("1", "2"):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / release)
        assert argv_of("agent", None, program)[0] == str(tmp_path / release / "bin" / "python")
    assert argv_of("run", Path("c.yaml"))[0] == sys.executable
    assert argv_of("run", Path("c.yaml"))[-2:] == ["--config", "c.yaml"]
