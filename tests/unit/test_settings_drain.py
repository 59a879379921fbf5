"""How long a stop may take, as this machine says it."""

import pytest

from pomerium_agent.errors import SettingsError
from pomerium_agent.settings import read_settings

TOKEN = {"POMERIUM_ZERO_TOKEN": "t"}


@pytest.mark.parametrize(("text", "seconds"), [("", 0.0), ("0", 0.0), ("15", 15.0), ("3600", 3600.0)])
def test_seconds_are_whole_numbers_within_an_hour(text: str, seconds: float) -> None:
    assert read_settings(TOKEN | {"POMERIUM_AGENT_DRAIN_NOTICE": text}).local.drain_notice == seconds


@pytest.mark.parametrize("text", ["-1", "3601", "1.5", "5s", "99999", "\u0661"])
def test_anything_else_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match="POMERIUM_AGENT_DRAIN_SECONDS"):
        read_settings(TOKEN | {"POMERIUM_AGENT_DRAIN_SECONDS": text})
