"""The systemd service says what keeper and script rely on."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from pomerium_agent.keeper.children import Patience
from pomerium_agent.keeper.keeper import FINAL_EXIT_CODES, longest_stop

ROOT = Path(__file__).parents[3]
UNIT = ROOT / "systemd" / "pomerium-agent.service"


def directives() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_a_stop_is_given_longer_than_the_longest_that_the_keeper_takes() -> None:
    """R-23: requests in flight are finished first, so systemd must not cut that short."""
    assert float(directives()["TimeoutStopSec"][0]) > longest_stop(Patience())


def test_what_another_start_would_not_help_is_not_started_again() -> None:
    assert directives()["RestartPreventExitStatus"] == [" ".join(str(code) for code in FINAL_EXIT_CODES)]
    assert directives()["Restart"] == ["always"]


def test_the_token_is_a_credential_and_nothing_else() -> None:
    assert directives()["LoadCredential"] == ["pomerium_zero_token:/etc/pomerium-agent/token"]
    assert not [value for values in directives().values() for value in values if "POMERIUM_ZERO_TOKEN" in value]


def test_it_may_bind_low_ports_and_nothing_more() -> None:
    for name in ("AmbientCapabilities", "CapabilityBoundingSet"):
        assert directives()[name] == ["CAP_NET_BIND_SERVICE"]


def test_it_leaves_no_core_dump_which_would_hold_every_secret() -> None:
    assert directives()["LimitCORE"] == ["0"]


def test_each_release_brings_it() -> None:
    shared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]

    place = shared["shared-data"]["systemd/pomerium-agent.service"]
    assert f"$directory/{place}" in (ROOT / "install.sh").read_text()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here: install systemd")
def test_systemd_rates_it_well() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(UNIT)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-300:]
