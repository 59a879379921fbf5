"""The door through which Envoy is fed."""

import os
import stat
from pathlib import Path

from pomerium_agent.envoy.ads_server import serve_ads
from pomerium_agent.runtime.clock import SystemClock


async def test_the_socket_that_hands_out_private_keys_is_for_us_alone(tmp_path: Path) -> None:
    """Whatever the directory and the umask allow: keys travel here by SDS (routes 11.6)."""
    before = os.umask(0)
    try:
        async with serve_ads(tmp_path / "ads.sock", SystemClock()):
            mode = stat.S_IMODE((tmp_path / "ads.sock").stat().st_mode)
    finally:
        os.umask(before)

    assert mode == 0o600
