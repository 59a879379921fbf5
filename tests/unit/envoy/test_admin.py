"""Envoy's admin socket, from the client's side."""

from pathlib import Path

import pytest

from pomerium_agent.envoy.admin import open_admin
from pomerium_agent.errors import EnvoyUnavailable


async def test_who_asks_when_nobody_listens_any_more_hears_that_envoy_is_not_there(tmp_path: Path) -> None:
    """Z-25, zero link 14: with another shared secret all that serves begins anew, and a telemetry request may come."""
    async with open_admin(tmp_path / "none.sock") as admin:
        pass

    with pytest.raises(EnvoyUnavailable):
        await admin.stats()
